import pytest
import torch

from keepaug.functional.saliency_maps import (
    LEVELS,
    Places,
    average_rows,
    blend_maps,
    decode_maps,
    encode_maps,
    lay_back,
    read_windows,
)


def place(size, box, flips=(0, 0), index=0) -> Places:
    return Places.from_rows(torch.tensor([[index, *size, *box, *flips]]))


def random_places(count: int, generator: torch.Generator) -> Places:
    """Crops of images of many shapes, some over the border, some flipped."""

    def integers(low, high):
        return torch.randint(low, high, (count,), generator=generator)

    height, width = integers(20, 60), integers(20, 60)
    x0, y0 = integers(-6, 15), integers(-6, 15)
    return Places.from_rows(
        torch.stack(
            [
                torch.arange(count),
                height,
                width,
                x0,
                y0,
                x0 + integers(8, 50),
                y0 + integers(8, 50),
                integers(0, 2),
                integers(0, 2),
            ],
            1,
        )
    )


def slow_overlap(start: float, stop: float, length: int, pixels: int, pixel: int, cells: int, cell: int) -> float:
    """What a pixel and a cell have in common, in pixels of the image."""
    extent = (stop - start) / pixels
    lower, upper = start + pixel * extent, start + (pixel + 1) * extent
    return max(0.0, min(upper, (cell + 1) * length / cells) - max(lower, cell * length / cells))


def slow_lay_back(saliency, kept, where: list[int], cells: int):
    """One crop (H, W) with Python's numbers."""
    _, height, width, x0, y0, x1, y1, mirrored, turned = where
    h, w = saliency.shape
    sums, cover = torch.zeros(cells, cells).double(), torch.zeros(cells, cells).double()
    counted = []
    for r in range(h):
        for c in range(w):
            row, column = h - 1 - r if turned else r, w - 1 - c if mirrored else c
            down = [slow_overlap(y0, y1, height, h, row, cells, cell) for cell in range(cells)]
            across = [slow_overlap(x0, x1, width, w, column, cells, cell) for cell in range(cells)]
            if not kept[r, c] or sum(down) < (y1 - y0) / h / 2 or sum(across) < (x1 - x0) / w / 2:
                continue
            counted.append(saliency[r, c].item())
            weight = torch.tensor(down).double()[:, None] * torch.tensor(across).double()
            sums += weight * saliency[r, c].item()
            cover += weight
    cover *= cells * cells / height / width
    mean = sum(counted) / max(1, len(counted))
    return torch.where(cover >= 0.5, sums * cells * cells / height / width / mean / cover, 0.0), cover


def test_planted_gradient_is_laid_back_by_hand():
    """A crop of the upper right quarter of an 8 x 8 image, turned left to right, onto 4 x 4 cells."""
    saliency = torch.zeros(1, 1, 4, 4)
    saliency[0, 0, 0, 0] = 16.0  # upper left of the flipped crop: upper right of the image
    values, seen = lay_back(saliency, torch.ones_like(saliency).bool(), place((8, 8), (4, 0, 8, 4), (1, 0)), 4)
    expected = torch.zeros(4, 4)
    expected[0, 3] = 4.0  # 16 over the mean of 1, in one of the cell's four pixels
    assert torch.equal(values[0], expected)
    assert seen[0].nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_a_small_crop_of_a_large_image_fills_its_cells():
    """2 x 2 pixels that stand for 20 x 20 of the image."""
    saliency = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    values, seen = lay_back(saliency, saliency > 0, place((40, 40), (0, 20, 20, 40), (0, 1)), 4)
    # Upside down: the crop's last row is the first of the image.
    assert torch.equal(values[0, 2:, :2] * 4, torch.tensor([[5.0, 7.0], [1.0, 3.0]]))
    assert seen[0].sum() == 4 and seen[0, 2:, :2].all()


@pytest.mark.parametrize('cells', [1, 5, 16])
def test_like_a_slow_loop(cells):
    generator = torch.Generator().manual_seed(cells)
    places = random_places(12, generator)
    saliency = torch.rand(12, 1, 9, 11, generator=generator)
    kept = torch.rand(12, 1, 9, 11, generator=generator) < 0.8
    values, seen = lay_back(saliency, kept, places, cells)
    rows = torch.cat([places.image[:, None], places.size, places.box, places.flipped], 1).tolist()
    for i, row in enumerate(rows):
        expected, cover = slow_lay_back(saliency[i, 0], kept[i, 0], row, cells)
        clear = (cover - 0.5).abs() > 1e-3
        assert torch.equal(seen[i][clear], (cover >= 0.5)[clear])
        torch.testing.assert_close(values[i][clear].double(), expected[clear], rtol=1e-4, atol=1e-5)
    assert 0 < seen.float().mean() < 1


def test_only_shape_counts():
    """Positive factors cancel in each sample."""
    generator = torch.Generator().manual_seed(0)
    places = random_places(6, generator)
    saliency = torch.rand(6, 1, 8, 8, generator=generator)
    kept = torch.ones_like(saliency).bool()
    values, _ = lay_back(saliency, kept, places, 4)
    scaled, _ = lay_back(saliency * torch.logspace(-6, 6, 6)[:, None, None, None], kept, places, 4)
    torch.testing.assert_close(scaled, values)


@pytest.mark.parametrize('fill', [0.0, float('nan'), float('inf')])
def test_what_tells_nothing_leaves_no_trace(fill):
    saliency = torch.full((2, 1, 8, 8), fill)
    saliency[1] = 1.0
    where = place((8, 8), (0, 0, 8, 8))
    where = Places(*(part.expand(2, *part.shape[1:]) for part in where))
    values, seen = lay_back(saliency, torch.ones_like(saliency).bool(), where, 4)
    assert not seen[0].any() and (values[0] == 0).all()
    assert seen[1].all() and (values[1] == 1).all()


def test_what_is_not_kept_is_not_seen():
    saliency = torch.ones(1, 1, 8, 8)
    saliency[..., :4] = 1e6
    kept = torch.ones_like(saliency).bool()
    kept[..., :4] = False
    values, seen = lay_back(saliency, kept, place((8, 8), (0, 0, 8, 8)), 4)
    assert not seen[0, :, :2].any() and (values[0, :, 2:] == 1).all()


def test_padding_is_not_seen():
    """A crop of 8 pixels of which 4 lie beyond the left border."""
    saliency = torch.ones(1, 1, 8, 8)
    saliency[..., :4] = 1e6
    values, seen = lay_back(saliency, torch.ones_like(saliency).bool(), place((8, 8), (-4, 0, 4, 8)), 4)
    assert (values[0, :, :2] == 1).all() and not seen[0, :, 2:].any()


def test_rows_of_one_image_are_averaged():
    values = torch.tensor([1.0, 2.0, 3.0, 7.0])[:, None, None].expand(4, 2, 2).clone()
    seen = torch.ones(4, 2, 2, dtype=torch.bool)
    seen[2, 0, 0] = False
    averaged, known = average_rows(values, seen, torch.tensor([5, 1, 5, 5]))
    torch.testing.assert_close(averaged[0], torch.tensor([[4.0, 11 / 3], [11 / 3, 11 / 3]]))
    assert torch.equal(averaged[0], averaged[2]) and torch.equal(averaged[0], averaged[3])
    assert torch.equal(averaged[1], values[1]) and known.all()


def test_averages_of_many_rows_are_equal_to_the_last_bit():
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(7, (301,), generator=generator)
    averaged, _ = average_rows(
        torch.rand(301, 3, 3, generator=generator), torch.rand(301, 3, 3, generator=generator) < 0.9, index
    )
    for image in index.unique():
        rows = averaged[index == image]
        assert (rows == rows[0]).all()


def test_bytes_and_back():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(50, 8, 8, generator=generator).square() * 9
    seen = torch.rand(50, 8, 8, generator=generator) < 0.7
    levels, scale = encode_maps(values, seen)
    assert levels.dtype == torch.uint8 and torch.equal(levels > 0, seen)
    decoded, known = decode_maps(levels, scale)
    assert torch.equal(known, seen) and (decoded[~seen] == 0).all()
    # Half a level of the square root, to either side.
    error = (decoded.sqrt() - torch.where(seen, values, 0.0).sqrt()).abs() / scale.sqrt()[:, None, None]
    assert error.max() <= 0.5 / LEVELS + 1e-6
    again, _ = encode_maps(decoded, known)
    assert torch.equal(again, levels)


def test_a_map_of_zeros_is_seen():
    levels, scale = encode_maps(torch.zeros(1, 2, 2), torch.ones(1, 2, 2).bool())
    values, seen = decode_maps(levels, scale)
    assert seen.all() and (values == 0).all()


def test_cells_seen_before_become_half_old_half_new():
    old = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]), torch.tensor([[[True, True], [True, False]]])
    new = torch.tensor([[[3.0, 0.0], [2.0, 5.0]]]), torch.tensor([[[True, False], [True, True]]])
    values, seen = blend_maps(old, new, 0.5)
    assert values.tolist() == [[[2.0, 1.0], [1.5, 5.0]]] and seen.all()
    assert blend_maps(old, new, 0.8)[0][0, 0, 0].item() == pytest.approx(1.4)


def test_windows_are_read_where_the_crop_lies():
    values = torch.arange(16.0).view(1, 4, 4)
    seen = torch.ones(1, 4, 4).bool()
    read = read_windows(values, seen, place((8, 8), (4, 0, 8, 4)), (4, 4))
    assert read.shape == (1, 1, 4, 4)
    assert torch.equal(
        read[0, 0], torch.tensor([[2.0, 3.0], [6.0, 7.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
    mirrored = read_windows(values, seen, place((8, 8), (4, 0, 8, 4), (1, 0)), (4, 4))
    assert torch.equal(mirrored, read.flip(-1))
    # A pixel over four cells takes their mean.
    assert read_windows(values, seen, place((8, 8), (0, 0, 8, 8)), (2, 2))[0, 0, 0, 0] == (0 + 1 + 4 + 5) / 4


def test_what_was_never_seen_takes_the_mean_and_padding_nothing():
    values = torch.tensor([[[1.0, 0.0], [3.0, 5.0]]])
    seen = torch.tensor([[[True, False], [True, True]]])
    read = read_windows(values, seen, place((4, 4), (-2, 0, 4, 4)), (4, 6))[0, 0]
    assert torch.equal(read[0], torch.tensor([0.0, 0.0, 1.0, 1.0, 3.0, 3.0]))
    assert torch.equal(read[3], torch.tensor([0.0, 0.0, 3.0, 3.0, 5.0, 5.0]))
    never = read_windows(values, torch.zeros_like(seen), place((4, 4), (0, 0, 4, 4)), (4, 4))
    assert (never == 0).all()


def test_what_is_laid_back_is_read_again():
    """A map of the cells' resolution, read through the place it was written from, is itself."""
    generator = torch.Generator().manual_seed(0)
    for flips in ((0, 0), (1, 0), (0, 1), (1, 1)):
        saliency = torch.rand(1, 1, 8, 8, generator=generator)
        where = place((64, 64), (0, 0, 64, 64), flips)
        values, seen = lay_back(saliency, saliency >= 0, where, 8)
        torch.testing.assert_close(read_windows(values, seen, where, (8, 8)), saliency / saliency.mean())


def test_autocast_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    places = random_places(5, generator)
    saliency = torch.rand(5, 1, 12, 12, generator=generator)
    kept = torch.ones_like(saliency).bool()

    def both():
        values, seen = average_rows(*lay_back(saliency, kept, places, 6), places.image)
        return values, read_windows(values, seen, places, (12, 12))

    expected = both()
    with torch.autocast('cpu', torch.bfloat16):
        assert all(torch.equal(one, other) for one, other in zip(both(), expected))
