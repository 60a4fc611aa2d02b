"""Masks from boxes, the squares of published Cutout, and the cells of Hide-and-Seek."""

import pytest
import torch
from torch import Tensor

from keepaug.functional import boxes_to_mask, cutout_mask, grid_mask, hide_and_seek_mask
from tests.functional.reference import SIGNIFICANT, independent_p, rate_p, uniform_p

DRAWS = 20_000


def paint(boxes: list[list[int]], size: tuple[int, int]) -> Tensor:
    """Masks (B, 1, H, W) painted pixel by pixel."""
    masks = torch.zeros(len(boxes), 1, *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        for y in range(size[0]):
            for x in range(size[1]):
                mask[0, y, x] = x0 <= x < x1 and y0 <= y < y1
    return masks


def test_planted_box():
    mask = boxes_to_mask(torch.tensor([[1, 0, 3, 2]]), (3, 4))
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[[[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]]


def test_boxes_equal_painted_pixels():
    boxes = [
        [0, 0, 7, 5],
        [2, 1, 3, 2],
        [6, 4, 7, 5],
        [-3, -2, 2, 1],
        [5, 3, 99, 99],
        [-5, -5, 99, 99],
        [3, 2, 3, 4],
        [0, 0, 0, 0],
        [8, 0, 12, 5],
        [4, 4, 2, 2],
    ]
    assert torch.equal(boxes_to_mask(torch.tensor(boxes), (5, 7)), paint(boxes, (5, 7)))


def test_random_boxes_equal_painted_pixels():
    boxes = torch.randint(-4, 14, (200, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(boxes_to_mask(boxes, (9, 8)), paint(boxes.tolist(), (9, 8)))


def test_area_of_boxes_inside_the_image():
    boxes = torch.tensor([[2, 3, 6, 4], [0, 0, 8, 9], [7, 8, 8, 9]])
    assert boxes_to_mask(boxes, (9, 8)).sum((1, 2, 3)).tolist() == [4, 72, 1]


def removal_rate(size: tuple[int, int], hole: int) -> Tensor:
    """Chance (H, W) that one square removes a pixel: the squares around all centres, painted and averaged."""
    height, width = size
    boxes = [
        [x - hole // 2, y - hole // 2, x - hole // 2 + hole, y - hole // 2 + hole]
        for y in range(height)
        for x in range(width)
    ]
    return paint(boxes, size).double().mean((0, 1))


@pytest.mark.parametrize('holes', [1, 3])
@pytest.mark.parametrize('hole', [1, 2, 3, 4, 9, 40])
@pytest.mark.parametrize('size', [(6, 9)])
def test_every_pixel_is_removed_at_its_rate(size, hole, holes):
    masks = cutout_mask(DRAWS, size, hole, holes, generator=torch.Generator().manual_seed(hole))
    assert masks.shape == (DRAWS, 1, *size) and masks.dtype == torch.bool
    kept = (1.0 - removal_rate(size, hole)) ** holes
    error = (kept * (1.0 - kept) / DRAWS).sqrt()
    removed = masks.double().mean((0, 1))
    assert ((removed - (1.0 - kept)).abs() <= 5.0 * error).all()


@pytest.mark.parametrize('size, hole', [((12, 10), 5), ((12, 10), 6), ((32, 32), 16)])
def test_mean_area_is_the_analytic_one(size, hole):
    # A square overflows the border, so it removes less than hole^2; with centres uniform the edges are independent.
    area = 1.0
    for edge in size:
        overlaps = [min(c - hole // 2 + hole, edge) - max(c - hole // 2, 0) for c in range(edge)]
        area *= sum(overlaps) / edge
    areas = cutout_mask(DRAWS, size, hole, generator=torch.Generator().manual_seed(1)).sum((1, 2, 3)).double()
    assert areas.max() == hole**2
    assert areas.min() < hole**2, 'squares must overflow the border'
    assert abs(areas.mean() - area) < 5.0 * areas.std() / DRAWS**0.5


def test_centres_are_uniform_over_the_whole_image():
    masks = cutout_mask(DRAWS, (5, 7), 1, generator=torch.Generator().manual_seed(2))
    assert (masks.sum((1, 2, 3)) == 1).all()
    assert uniform_p(masks.flatten(1).long().argmax(1), 35) > SIGNIFICANT


def test_one_placement_per_sample():
    place = cutout_mask(DRAWS, (3, 4), 1, generator=torch.Generator().manual_seed(3)).flatten(1).long().argmax(1)
    assert independent_p(place, 12) > SIGNIFICANT


def test_holes_of_one_image_are_placed_apart():
    # Two holes of one pixel coincide once in twelve.
    masks = cutout_mask(DRAWS, (3, 4), 1, holes=2, generator=torch.Generator().manual_seed(4))
    single = (masks.sum((1, 2, 3)) == 1).double().mean()
    assert abs(single - 1 / 12) < 5.0 * (11 / 144 / DRAWS) ** 0.5


def test_generator_is_the_only_source():
    stream = torch.get_rng_state()
    first, again, other = (
        cutout_mask(32, (16, 16), 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), stream)


def test_default_stream_without_generator():
    torch.manual_seed(5)
    first = cutout_mask(32, (16, 16), 5)
    torch.manual_seed(5)
    assert torch.equal(cutout_mask(32, (16, 16), 5), first)


def test_draws_on_the_generators_device():
    # The meta device stands for any other than the generator's; it has shapes and no numbers.
    masks = cutout_mask(4, (8, 6), 3, holes=2, generator=torch.Generator().manual_seed(0), device='meta')
    assert masks.device.type == 'meta' and masks.shape == (4, 1, 8, 6)


@pytest.mark.parametrize('hole, holes', [(0, 1), (-2, 1), (4, 0)])
def test_refuses_no_hole(hole, holes):
    with pytest.raises(ValueError, match=f'hole = {hole}, holes = {holes}'):
        cutout_mask(2, (8, 8), hole, holes)


def slow_hide_and_seek(removed: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks painted cell by cell from which cells (B, g, g) are removed."""
    grid = removed.shape[-1]
    masks = torch.zeros(len(removed), 1, *size, dtype=torch.bool)
    for mask, cells in zip(masks, removed):
        for row in range(grid):
            for col in range(grid):
                top, bottom = (i * size[0] // grid for i in (row, row + 1))
                left, right = (i * size[1] // grid for i in (col, col + 1))
                mask[0, top:bottom, left:right] = cells[row, col]
    return masks


def test_hide_and_seek_drawn_by_hand():
    # Everything or nothing, and the lines of a grid of 2 on 5 x 7 pixels: 2 rows above 3, 3 columns before 4.
    assert hide_and_seek_mask(3, (5, 7), 2, keep_patch=0.0).all()
    assert not hide_and_seek_mask(3, (5, 7), 2, keep_patch=1.0).any()
    assert not hide_and_seek_mask(3, (5, 7), 2, keep_patch=0.0, keep_image=1.0).any()
    masks = hide_and_seek_mask(64, (5, 7), 2, 0.5, generator=torch.Generator().manual_seed(0))
    assert masks.shape == (64, 1, 5, 7) and masks.dtype == torch.bool
    single = masks[masks[:, 0, 0, 0] & ~masks[:, 0, 0, 6] & ~masks[:, 0, 4, 0] & ~masks[:, 0, 4, 6]]
    assert single[0, 0].int().tolist() == [[1, 1, 1, 0, 0, 0, 0]] * 2 + [[0] * 7] * 3


@pytest.mark.parametrize(
    'size, grid', [((32, 32), 4), ((5, 7), 2), ((9, 10), 4), ((7, 7), 7), ((224, 200), 6), ((3, 2), 4)]
)
def test_hide_and_seek_equals_painted_cells(size, grid):
    def draw_masks(size):
        return hide_and_seek_mask(40, size, grid, 0.6, 0.2, generator=torch.Generator().manual_seed(1))

    # One pixel per cell shows which cells the same draws remove.
    assert torch.equal(draw_masks(size), slow_hide_and_seek(draw_masks((grid, grid))[:, 0], size))


@pytest.mark.parametrize('keep_patch, keep_image', [(0.5, 0.0), (0.9, 0.0), (0.6, 0.3)])
def test_hide_and_seek_rates(keep_patch, keep_image):
    masks = hide_and_seek_mask(DRAWS, (4, 4), 4, keep_patch, keep_image, generator=torch.Generator().manual_seed(2))
    cells = masks.flatten(1)
    rate = (1.0 - keep_patch) * (1.0 - keep_image)
    for cell in cells.unbind(1):
        assert rate_p(cell.sum().item(), DRAWS, rate) > SIGNIFICANT
    whole = keep_image + (1.0 - keep_image) * keep_patch**16
    assert rate_p((~cells.any(1)).sum().item(), DRAWS, whole) > SIGNIFICANT
    # Within an image kept or not as a whole, each cell has a draw of its own.
    opened = cells[cells.any(1)].double()
    if keep_image == 0.0:
        assert abs(torch.corrcoef(opened[:, :2].T)[0, 1]) < 5 * len(opened) ** -0.5


def test_hide_and_seek_refuses_no_grid():
    with pytest.raises(ValueError, match='grid = 0'):
        hide_and_seek_mask(2, (8, 8), 0, 0.5)


def squares_of(mask: Tensor) -> set[tuple[int, int]]:
    """Rows and columns of a mask (1, H, W) that are removed somewhere; it must be all their crossings."""
    rows, cols = mask[0].any(1), mask[0].any(0)
    assert torch.equal(mask[0], rows[:, None] & cols[None])
    return {tuple(line.nonzero().flatten().tolist()) for line in (rows, cols)}


def test_grid_of_one_distance():
    """Squares of 4 of every 10 pixels, wherever the first begins."""
    begins = set()
    for mask in grid_mask(400, (30, 30), (10, 10), 0.6, generator=torch.Generator().manual_seed(0)):
        for line in squares_of(mask):
            removed = {place % 10 for place in line}
            begin = next(place for place in range(10) if all((place + i) % 10 in removed for i in range(4)))
            assert line == tuple(place for place in range(30) if (place - begin) % 10 < 4)
            begins.add(begin)
    assert begins == set(range(10))


def test_grid_begins_anywhere_alike():
    masks = grid_mask(DRAWS, (20, 10), (5, 5), 0.4, generator=torch.Generator().manual_seed(0))
    removed = masks.double().mean((0, 1))
    assert (removed - 0.6**2).abs().max() < 4.5 * (0.36 * 0.64 / DRAWS) ** 0.5
    lines = masks[:, 0, :5].any(2), masks[:, 0, :, :5].any(1)
    rows, cols = ((line & ~line.roll(1, 1)).long().argmax(1) for line in lines)  # where the first square begins
    assert uniform_p(rows * 5 + cols, 25) > SIGNIFICANT
    assert independent_p(rows, 5) > SIGNIFICANT


def test_every_distance_is_drawn_alike():
    masks = grid_mask(4000, (64, 16), (8, 11), 0.5, generator=torch.Generator().manual_seed(0))
    lines = masks[:, 0].any(2)
    begins = lines & ~lines.roll(1, 1)
    begins[:, 0] = False
    first = begins.long().argmax(1)
    begins[torch.arange(len(masks)), first] = False
    assert uniform_p(begins.long().argmax(1) - first - 8, 4) > SIGNIFICANT


def test_grid_with_nothing_kept_or_removed():
    assert grid_mask(3, (8, 9), (4, 6), 0.0).all()
    assert not grid_mask(3, (8, 9), (4, 6), 1.0).any()


@pytest.mark.parametrize('unit', [(0, 4), (5, 4)])
def test_grid_without_distance(unit):
    with pytest.raises(ValueError, match='the smaller first'):
        grid_mask(1, (8, 8), unit, 0.5)
