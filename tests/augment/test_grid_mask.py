"""GridMask on batches; the masks themselves are tested in tests/functional/test_masks.py."""

import pytest
import torch

from keepaug.augment import GridMask

TARGET = torch.arange(4)


def masks(augment, batch=1000, size=(32, 40)):
    augment(torch.ones(batch, 3, *size), None, torch.Generator().manual_seed(0))
    return augment.last['mask']


def test_removed_pixels_are_zero():
    x = torch.randn(4, 3, 32, 32)
    augment = GridMask(prob=1.0)
    out, target = augment(x, TARGET)
    assert torch.equal(out, x.masked_fill(augment.last['mask'], 0.0)) and target is TARGET
    assert augment.last['mask'].any() and not augment.last['mask'].all()


def test_share_kept():
    """2 r - r^2 of an image on average, where whole squares fit."""
    removed = masks(GridMask(smallest=8, largest=8, keep=0.5, prob=1.0)).double().mean().item()
    assert removed == pytest.approx(0.25, abs=1e-9)


def test_default_distances_are_the_papers():
    assert GridMask().describe((224, 224)) == 'squares 96 to 224 px apart, 84% kept, probability 0.8'
    assert 'squares 14 to 32 px' in GridMask().describe((32, 48))
    assert 'squares 5 to 9 px' in GridMask(smallest=5, largest=9).describe((32, 48))


def test_probability():
    masked = masks(GridMask(smallest=4, largest=4, prob=0.3), 10000, (8, 8)).flatten(1).any(1).double().mean().item()
    assert masked == pytest.approx(0.3, abs=4 * (0.21 / 10000) ** 0.5)


def test_probability_rises():
    augment = GridMask(smallest=4, largest=4, prob=0.8, ramp=0.5)
    with pytest.raises(ValueError, match=r'call set_progress\(epoch / max\(1, epochs - 1\)\)'):
        masks(augment)
    shares = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        augment.set_progress(progress)
        shares.append(masks(augment, 4000, (8, 8)).flatten(1).any(1).double().mean().item())
    assert shares == pytest.approx([0.0, 0.4, 0.8, 0.8], abs=0.03)
    assert augment.describe((8, 8)).endswith('probability 0.8, rising over 50% of the epochs')


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(smallest=9, largest=8), 'smallest must be at most the largest distance, 8 pixels, got 9'),
        (dict(smallest=0), 'smallest must be at least 1 pixel'),
        (dict(keep=1.5), 'keep must be above 0 and below 1'),
        (dict(ramp=-1), 'ramp must be between 0 and 1'),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        GridMask(**settings)


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(largest=40), 'largest must be at most 32 for images of 32 x 32 pixels, got 40'),
        (dict(largest=10), 'largest must be at least the smallest distance, 14 pixels for these images, got 10'),
    ],
)
def test_images_that_do_not_fit(settings, words):
    with pytest.raises(ValueError, match=words):
        GridMask(**settings).check_images(torch.zeros(1, 3, 32, 32))
