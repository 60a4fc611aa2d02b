"""The variants of CutMix: each does one thing otherwise, and only that."""

import pytest
import torch

import keepaug
from keepaug.functional.mixing import central_boxes
from tests.functional.reference import SIGNIFICANT, rate_p, uniform_p


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _mix(variant: str, batch: int = 64, size: tuple[int, int] = (32, 32), progress: float | None = None, **settings):
    """A batch of named images mixed, the soft targets, and what was drawn; the first 256 are of different classes."""
    mixer = keepaug.create_augment(
        'cutmix-variant', num_classes=min(batch, 256), variant=variant, **{'mixing': 'elem', **settings}
    )
    if progress is not None:
        mixer.set_progress(progress)
    x = torch.arange(float(batch)).view(-1, 1, 1, 1).expand(batch, 1, *size).contiguous()
    mixed, soft = mixer(x, torch.arange(batch) % 256, _generator())
    return mixed, soft, mixer.last


def _own_share(mixed: torch.Tensor) -> torch.Tensor:
    """Share of pixels (B,) that are the image's own, counted."""
    return (mixed == torch.arange(float(len(mixed))).view(-1, 1, 1, 1)).double().mean((1, 2, 3))


# Exact.


@pytest.mark.parametrize('size', [(32, 32), (40, 28)])
def test_fixed_size_lies_inside_and_leaves_its_share(size):
    mixed, soft, last = _mix('fixed', size=size)
    boxes = last['boxes'][:, 0]
    assert ((boxes[:, 2:] - boxes[:, :2]) == 16).all()
    assert torch.allclose(last['lam'], torch.full((64,), 1 - 256 / (size[0] * size[1]), dtype=torch.float64))
    assert torch.equal(_own_share(mixed), last['lam'])


def test_fixed_size_of_the_paper_is_lambda_three_quarters():
    assert (_mix('fixed')[2]['lam'] == 0.75).all()


def test_one_hot_goes_to_the_image_of_more_pixels():
    mixed, soft, last = _mix('one-hot', batch=256)
    own = _own_share(mixed) >= 0.5
    assert 0 < own.sum() < 256
    winner = torch.where(own, torch.arange(256), last['partner'])
    assert torch.equal(soft, torch.eye(256)[winner])


def test_complete_label_is_half_and_half_whatever_the_share():
    mixed, soft, last = _mix('complete-label')
    assert len(_own_share(mixed).unique()) > 16
    own = torch.arange(64)
    assert (soft[own, own] == 0.5).all() and (soft[own, last['partner']] == 0.5).all()


@pytest.mark.parametrize('variant', ['one-hot', 'complete-label'])
def test_images_that_are_not_mixed_keep_their_label(variant):
    mixed, soft, last = _mix(variant, prob=0.0)
    assert torch.equal(soft, torch.eye(64)) and (_own_share(mixed) == 1).all()


@pytest.mark.parametrize('variant', ['center-gaussian', 'fixed', 'scheduled'])
def test_label_follows_the_pixels(variant):
    mixed, soft, last = _mix(variant, progress=1.0)
    own = torch.arange(64)
    assert torch.allclose(soft[own, own].double(), _own_share(mixed))
    assert torch.allclose(soft[own, last['partner']].double(), 1 - _own_share(mixed))


def test_schedule_starts_with_nothing_and_ends_with_everything():
    assert not _mix('scheduled', progress=0.0)[2]['mask'].any()
    assert _mix('scheduled', progress=1.0, size=(64, 64))[2]['mask'].flatten(1).any(1).double().mean() > 0.9


def test_schedule_must_be_told():
    with pytest.raises(ValueError, match=r'call set_progress\(epoch / max\(1, epochs - 1\)\)'):
        _mix('scheduled')


def test_fixed_size_that_does_not_fit():
    with pytest.raises(ValueError, match='fixed_size must be at most 12 for images of 32 x 12 pixels, got 16'):
        _mix('fixed', size=(32, 12))


@pytest.mark.parametrize('settings', [dict(variant='none'), dict(variant='fixed', fixed_size=0)])
def test_refusals(settings):
    with pytest.raises(ValueError):
        keepaug.create_augment('cutmix-variant', num_classes=3, **settings)


# Statistical.


def test_centres_are_normal_around_the_images():
    edge = 1001
    boxes = central_boxes(torch.ones(20_000, 2, dtype=torch.long), (edge, edge), _generator())
    for centre in boxes[:, :2].double().unbind(1):
        # A normal distribution cut off at two standard deviations has 0.88 of its standard deviation.
        assert centre.mean().item() == pytest.approx((edge - 1) / 2, abs=4 * 220 / 20_000**0.5)
        assert centre.std().item() == pytest.approx(0.8796 * edge / 4, rel=0.02)
        within = ((centre - 500).abs() < edge / 4).double().mean().item()  # one standard deviation
        assert within == pytest.approx(0.6827 / 0.9545, abs=0.012)
        assert centre.min() < 20 and centre.max() > edge - 20


def test_fixed_places_are_uniform_to_the_last():
    boxes = _mix('fixed', batch=10_000, size=(18, 18))[2]['boxes'][:, 0]
    assert uniform_p(boxes[:, 1] * 3 + boxes[:, 0], 9) > SIGNIFICANT


@pytest.mark.parametrize('progress', [0.25, 0.8])
def test_schedule_is_linear_and_applied_once(progress):
    last = _mix('scheduled', 10_000, (8, 8), progress, prob=0.5, cutmix_alpha=0.0, cutmix_minmax=(0.5, 0.5))[2]
    assert rate_p(int(last['mask'].flatten(1).any(1).sum()), 10_000, 0.5 * progress) > SIGNIFICANT


@pytest.mark.parametrize('variant', ['center-gaussian', 'fixed'])
def test_every_sample_has_a_place_of_its_own(variant):
    assert len(_mix(variant)[2]['boxes'][:, 0].unique(dim=0)) > 32
