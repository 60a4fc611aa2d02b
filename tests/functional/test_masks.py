"""Masks from boxes, and the squares of published Cutout."""
import pytest
import torch
from torch import Tensor

from keepaug.functional import boxes_to_mask, cutout_mask
from tests.functional.reference import SIGNIFICANT, independent_p, uniform_p

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
        [0, 0, 7, 5], [2, 1, 3, 2], [6, 4, 7, 5], [-3, -2, 2, 1], [5, 3, 99, 99], [-5, -5, 99, 99],
        [3, 2, 3, 4], [0, 0, 0, 0], [8, 0, 12, 5], [4, 4, 2, 2]]
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
        for y in range(height) for x in range(width)]
    return paint(boxes, size).double().mean((0, 1))


@pytest.mark.parametrize('holes', [1, 3])
@pytest.mark.parametrize('hole', [1, 2, 3, 4, 9, 40])
@pytest.mark.parametrize('size', [(6, 9)])
def test_every_pixel_is_removed_at_its_rate(size, hole, holes):
    masks = cutout_mask(DRAWS, size, hole, holes, generator=torch.Generator().manual_seed(hole))
    assert masks.shape == (DRAWS, 1, *size) and masks.dtype == torch.bool
    kept = (1. - removal_rate(size, hole)) ** holes
    error = (kept * (1. - kept) / DRAWS).sqrt()
    removed = masks.double().mean((0, 1))
    assert ((removed - (1. - kept)).abs() <= 5. * error).all()


@pytest.mark.parametrize('size, hole', [((12, 10), 5), ((12, 10), 6), ((32, 32), 16)])
def test_mean_area_is_the_analytic_one(size, hole):
    # A square overflows the border, so it removes less than hole^2; with centres uniform the edges are independent.
    area = 1.
    for edge in size:
        overlaps = [min(c - hole // 2 + hole, edge) - max(c - hole // 2, 0) for c in range(edge)]
        area *= sum(overlaps) / edge
    areas = cutout_mask(DRAWS, size, hole, generator=torch.Generator().manual_seed(1)).sum((1, 2, 3)).double()
    assert areas.max() == hole ** 2
    assert areas.min() < hole ** 2, 'squares must overflow the border'
    assert abs(areas.mean() - area) < 5. * areas.std() / DRAWS ** 0.5


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
    assert abs(single - 1 / 12) < 5. * (11 / 144 / DRAWS) ** 0.5


def test_generator_is_the_only_source():
    stream = torch.get_rng_state()
    first, again, other = (
        cutout_mask(32, (16, 16), 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
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
