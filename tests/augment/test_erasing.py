"""Keep-cut's `erase` draws areas, aspects and counts as timm's random erasing does; only the place is chosen."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from timm.data.random_erasing import RandomErasing

from keepaug import create_augment
from keepaug.augment.keep_cut import draw_erasing_sizes
from tests.functional.reference import SIGNIFICANT, rate_p, uniform_p

DRAWS = 10_000


class Recorder:
    """Stands for an image and notes the regions that timm erases."""

    def __init__(self):
        self.regions: list[tuple[int, int]] = []

    def __setitem__(self, region: tuple[slice, slice, slice], value: torch.Tensor) -> None:
        _, rows, columns = region
        self.regions.append((rows.stop - rows.start, columns.stop - columns.start))


def timm_regions(height: int, width: int, max_count: int) -> list[list[tuple[int, int]]]:
    """Sizes (h, w) of the regions of each of many images."""
    erasing = RandomErasing(probability=1.0, mode='const', max_count=max_count, device='cpu')
    images = [Recorder() for _ in range(DRAWS)]
    for image in images:
        erasing._erase(image, 3, height, width, torch.float32)
    return [image.regions for image in images]


def our_regions(height: int, width: int, max_count: int) -> list[list[tuple[int, int]]]:
    drawn = draw_erasing_sizes(DRAWS, (height, width), max_count, torch.device('cpu'), torch.Generator().manual_seed(0))
    edges, has = (torch.stack(part, 1).tolist() for part in zip(*drawn))
    return [[tuple(region) for region, present in zip(*image) if present] for image in zip(edges, has)]


@pytest.fixture
def python_stream():
    state = random.getstate()
    random.seed(0)
    yield
    random.setstate(state)


@pytest.mark.parametrize('height, width, max_count', [(32, 32, 1), (48, 20, 1), (40, 56, 3)])
def test_sizes_are_distributed_as_timms(height, width, max_count, python_stream):
    theirs, ours = timm_regions(height, width, max_count), our_regions(height, width, max_count)
    for measure in (
        lambda image: [h * w / (height * width) for h, w in image],
        lambda image: [np.log(h / w) for h, w in image],
        lambda image: [len(image)],
        lambda image: [sum(h * w for h, w in image) / (height * width)],
    ):
        first, second = (np.concatenate([measure(image) for image in images]) for images in (theirs, ours))
        assert ks_2samp(first, second).pvalue > SIGNIFICANT
        error = np.hypot(first.std() / len(first) ** 0.5, second.std() / len(second) ** 0.5)
        assert abs(first.mean() - second.mean()) <= 5.0 * error
        # Quantiles are steps of whole pixels apart.
        np.testing.assert_allclose(
            np.quantile(first, [0.1, 0.5, 0.9]), np.quantile(second, [0.1, 0.5, 0.9]), rtol=0.08, atol=0.05
        )


def test_area_and_log_aspect_are_uniform():
    # So large that rounding to pixels does not show. Regions of up to a fifth fit at any aspect, and are all kept.
    ((edges, has),) = draw_erasing_sizes(DRAWS, (9000, 9000), 1, torch.device('cpu'), torch.Generator().manual_seed(1))
    assert has.all()
    h, w = edges.double().unbind(1)
    area, log_aspect = h * w / 9000**2, torch.log(h / w)
    limit = -np.log(0.3)
    assert 0.0199 < area.min() and 0.33 < area.max() < 0.3335
    assert -limit - 1e-2 < log_aspect.min() and log_aspect.max() < limit + 1e-2
    small = area < 0.2
    assert kstest(area[small], 'uniform', (0.02, 0.18)).pvalue > SIGNIFICANT
    assert kstest(log_aspect[small], 'uniform', (-limit, 2 * limit)).pvalue > SIGNIFICANT
    # One draw per image, not per batch, and aspect apart from area.
    assert (edges[1:] != edges[:-1]).any(1).double().mean() > 0.99
    assert abs(torch.corrcoef(torch.stack([area[small], log_aspect[small]]))[0, 1]) < 5 * len(area[small]) ** -0.5


@pytest.mark.parametrize('max_count', [2, 5])
def test_count_is_uniform(max_count):
    counts = torch.tensor([len(image) for image in our_regions(64, 64, max_count)])
    assert counts.min() == 1 and counts.max() == max_count
    assert uniform_p(counts - 1, max_count) > SIGNIFICANT


@pytest.mark.parametrize('size', [(3, 3), (1, 9), (2, 2), (1, 1)])
def test_images_too_small_for_a_region(size):
    x = torch.randn(200, 1, *size)
    augment = create_augment('keep-cut', mode='erase', tau=None)
    out, _ = augment(x, None, torch.Generator().manual_seed(2))
    mask = augment.last['mask']
    assert torch.equal(out, x.masked_fill(mask, 0.0))
    assert not mask.flatten(1).all(1).any(), 'a region is smaller than the image'


def test_every_region_of_an_image_is_removed():
    x = torch.ones(64, 2, 32, 40)
    augment = create_augment('keep-cut', mode='erase', tau=None, max_count=4, prob=0.5)
    out, _ = augment(x, None, torch.Generator().manual_seed(3))
    boxes = augment.last['boxes']
    assert boxes.shape == (64, 4, 4)
    expected = torch.zeros(64, 1, 32, 40, dtype=torch.bool)
    for i, image in enumerate(boxes.tolist()):
        for x0, y0, x1, y1 in image:
            assert 0 <= x0 <= x1 <= 40 and 0 <= y0 <= y1 <= 32
            expected[i, :, y0:y1, x0:x1] = True
    assert torch.equal(augment.last['mask'], expected)
    assert torch.equal(out == 0.0, expected.expand_as(out))
    assert rate_p(expected.flatten(1).any(1).sum().item(), 64, 0.5) > SIGNIFICANT


def test_the_place_is_uniform_for_every_size():
    augment = create_augment('keep-cut', mode='erase', tau=None)
    augment(torch.zeros(DRAWS, 1, 16, 24), None, torch.Generator().manual_seed(4))
    box = augment.last['boxes'][:, 0].double()
    for low, high, edge in ((box[:, 0], box[:, 2], 24), (box[:, 1], box[:, 3], 16)):
        # Uniform on 0 .. edge - size: mean a half, variance (1 + 2 / (edge - size)) / 12.
        free = edge - (high - low)
        share = (low / free - 0.5) / ((1.0 + 2.0 / free) / 12.0) ** 0.5
        assert abs(share.mean()) < 5 * DRAWS**-0.5
        assert abs(share.std() - 1.0) < 0.03
        assert (low == 0).any() and (high == edge).any()
