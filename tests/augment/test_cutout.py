"""Published Cutout as an augmentation; where its squares fall is tested with `cutout_mask`."""

import pytest
import torch

from keepaug import create_augment
from tests.functional.reference import SIGNIFICANT, rate_p

DRAWS = 10_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_masked_pixels_are_zero_and_others_kept():
    x, target = torch.randn(50, 3, 20, 28), torch.arange(50)
    given = x.clone()
    augment = create_augment('cutout', size=9, holes=2)
    out, label = augment(x, target, seeded())
    mask = augment.last['mask']
    assert label is target and torch.equal(x, given)
    assert mask.shape == (50, 1, 20, 28) and mask.dtype == torch.bool
    assert torch.equal(out, torch.where(mask, 0.0, x))


@pytest.mark.parametrize('height, width, edge', [(32, 32, 16), (95, 224, 16), (96, 96, 40), (224, 128, 40)])
def test_default_size(height, width, edge):
    augment = create_augment('cutout')
    augment(torch.zeros(100, 1, height, width), None, seeded())
    assert augment.last['mask'].sum((1, 2, 3)).max() == edge**2


def test_overflows_the_border():
    augment = create_augment('cutout', size=16)
    augment(torch.zeros(500, 1, 32, 32), None, seeded())
    assert augment.last['mask'].sum((1, 2, 3)).min() < 16**2
    # A square may be larger than the image, which an in-image window never is.
    out, _ = create_augment('cutout', size=99)(torch.ones(4, 1, 32, 32), None)
    assert (out == 0.0).all()


@pytest.mark.parametrize('prob', [0.0, 0.5, 1.0])
def test_probability_is_per_image(prob):
    x = torch.ones(DRAWS, 1, 8, 8)
    out, _ = create_augment('cutout', size=4, prob=prob)(x, None, seeded())
    cut = (out == 0.0).flatten(1).any(1).sum().item()
    assert rate_p(cut, DRAWS, prob) > SIGNIFICANT


def test_generator_and_default_stream():
    x = torch.randn(32, 1, 16, 16)
    augment = create_augment('cutout', size=5, prob=0.5)
    stream = torch.get_rng_state()
    first, again, other = (augment(x, None, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), stream)
    torch.manual_seed(1)
    drawn, _ = augment(x, None)
    torch.manual_seed(1)
    assert torch.equal(augment(x, None)[0], drawn)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(size=0), 'size must be at least 1 pixel, got 0'),
        (dict(holes=0), 'holes must be at least 1, got 0'),
        (dict(prob=2.0), 'prob must be between 0 and 1, got 2.0'),
    ],
)
def test_refuses_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_augment('cutout', **arguments)
