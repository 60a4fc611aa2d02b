"""Selective paste: what is pasted lies above the quantile of the clean image's saliency; all else is as augmented."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from keepaug import create_augment
from keepaug.augment.keep_paste import split_pairs
from keepaug.functional import boxes_to_mask, input_saliency, region_scores
from tests.functional.reference import SIGNIFICANT, admitted_places, independent_p, rate_p, uniform_p, window_sums
from tests.functional.toys import SquareModel, linear_model, small_cnn

DRAWS = 10_000


def pairs(n: int = 6, channels: int = 3, height: int = 32, width: int = 32) -> tuple[Tensor, Tensor]:
    """2n rows, no pixel of which is the same on both sides, nor 0."""
    generator = torch.Generator().manual_seed(0)
    x = 0.1 + torch.rand(2 * n, channels, height, width, generator=generator)
    x[n:] *= -1.0
    return x, torch.randint(5, (n,), generator=generator).repeat(2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('saliency, blur', [('full', 0), ('low', 1)])
def test_planted_evidence_is_pasted(saliency, blur):
    """Of 13 x 13 windows 7 x 7 touch the evidence, 4 x 4 px, and 9 x 9 its map when enlarged from half the size.

    Both are less than half of them: at tau 0.5 the quantile is 0, and what lies above it touches.
    """
    x, _ = pairs(DRAWS, channels=1, height=16, width=16)
    target = torch.arange(DRAWS) % 4
    square = (6 / 16, 6 / 16, 10 / 16, 10 / 16)
    augment = create_augment('keep-paste', model=SquareModel(square, channels=1), size=4, tau=0.5, saliency=saliency)
    out, label = augment(x, target, seeded())
    evidence = boxes_to_mask(torch.tensor([[6, 6, 10, 10]]), (16, 16))
    blurred = boxes_to_mask(torch.tensor([[6 - blur, 6 - blur, 10 + blur, 10 + blur]]), (16, 16))
    assert (augment.last['mask'] & blurred).flatten(1).any(1).all()
    assert torch.equal(label, target)
    blind = create_augment('keep-paste', size=4, tau=None)
    blind(x, target, seeded())
    touched = (blind.last['mask'] & evidence).flatten(1).any(1)
    assert rate_p(touched.sum().item(), DRAWS, (7 / 13) ** 2) > SIGNIFICANT


@pytest.mark.parametrize('tau', [0.6, None])
def test_pixels_are_the_clean_ones_inside_and_the_augmented_ones_outside(tau):
    x, target = pairs(200, height=24, width=30)
    given = x.clone()
    augment = create_augment('keep-paste', model=small_cnn(), size=7, tau=tau)
    out, label = augment(x, target, seeded())
    assert torch.equal(x, given), 'inputs are not modified'
    assert out.shape == (200, 3, 24, 30) and torch.equal(label, target[:200])
    for image, clean, augmented, (x0, y0, x1, y1) in zip(
        out, x[:200], x[200:], augment.last['boxes'][:, 0].tolist(), strict=True
    ):
        assert (y1 - y0, x1 - x0) == (7, 7)
        expected = augmented.clone()
        expected[:, y0:y1, x0:x1] = clean[:, y0:y1, x0:x1]
        assert torch.equal(image, expected)
    assert torch.equal(augment.last['clean'], x[:200]) and torch.equal(augment.last['augmented'], x[200:])


@pytest.mark.parametrize('tau', [0.0, 0.3, 0.6, 1.0])
def test_region_lies_above_the_quantile_of_the_clean_rows(tau):
    """Reference: every window of every image summed and compared with the quantile, one after the other."""
    x, target = pairs(24, height=12, width=15)
    model = small_cnn()
    augment = create_augment('keep-paste', model=model, size=5, tau=tau, saliency='full')
    augment(x, target, seeded())
    saliency = input_saliency(model, x[:24], target[:24])
    assert torch.equal(augment.last['saliency'], saliency)
    for shown, (x0, y0, x1, y1) in zip(saliency[:, 0], augment.last['boxes'][:, 0].tolist()):
        assert (x1 - x0, y1 - y0) == (5, 5)
        assert admitted_places(window_sums(shown, (5, 5)), tau, 'high')[y0, x0]


def test_every_window_above_the_quantile_is_drawn_alike():
    # One map for all: a linear model's saliency does not depend on the image.
    weights = torch.randn(2, 1, 8, 9, generator=seeded(1))
    augment = create_augment('keep-paste', model=linear_model(weights), size=3, saliency='full')
    augment(torch.randn(2 * DRAWS, 1, 8, 9), torch.ones(DRAWS, dtype=torch.long), seeded())
    admitted = admitted_places(region_scores(weights[1:].abs(), (3, 3))[0], 0.6, 'high')
    places = torch.from_numpy(np.flatnonzero(admitted))
    assert len(places) == 42 - 1 - int(0.6 * 41)
    box = augment.last['boxes'][:, 0]
    place = box[:, 1] * 7 + box[:, 0]
    index = torch.searchsorted(places, place).clamp(max=len(places) - 1)
    assert torch.equal(places[index], place)
    assert uniform_p(index, len(places)) > SIGNIFICANT
    assert independent_p(index, len(places)) > SIGNIFICANT


def test_saliency_is_that_of_the_label():
    weights = torch.zeros(2, 1, 8, 8)
    weights[0, :, :, :4] = 1.0
    weights[1, :, :, 4:] = 1.0
    augment = create_augment(
        'keep-paste', model=linear_model(weights, torch.tensor([0.0, 1e3])), size=2, saliency='full'
    )
    target = torch.arange(200) % 2
    augment(torch.ones(400, 1, 8, 8), target.repeat(2), seeded())
    x0 = augment.last['boxes'][:, 0, 0]
    # Class 0 is told by the left half, so that is kept, although class 1 is predicted for all.
    assert (x0[target == 0] <= 2).all() and (x0[target == 1] >= 4).all()


def test_blind_control_is_uniform_and_asks_no_model():
    x, target = pairs(DRAWS, channels=1, height=6, width=7)
    augment = create_augment('keep-paste', size=4, tau=None)
    augment(x, target, seeded())
    assert augment.last['saliency'] is None
    box = augment.last['boxes'][:, 0]
    assert uniform_p(box[:, 1] * 4 + box[:, 0], 12) > SIGNIFICANT


@pytest.mark.parametrize('prob', [0.0, 0.5, 1.0])
def test_probability_is_per_image(prob):
    x, target = pairs(DRAWS, channels=1, height=12, width=12)
    augment = create_augment('keep-paste', size=4, tau=None, prob=prob)
    out, _ = augment(x, target, seeded())
    pasted = augment.last['mask'].flatten(1).any(1)
    assert torch.equal(pasted, (out != x[DRAWS:]).flatten(1).any(1))
    assert torch.equal(pasted, augment.last['boxes'][:, 0].any(1)), 'an image without a paste has an empty box'
    if prob in (0.0, 1.0):
        assert pasted.double().mean() == prob
    else:
        assert rate_p(pasted.sum().item(), DRAWS, prob) > SIGNIFICANT
        assert independent_p(pasted.long(), 2) > SIGNIFICANT


@pytest.mark.parametrize('reprob', [0.3, 1.0])
def test_erasing_touches_neither_the_clean_side_nor_what_is_pasted(reprob):
    x, target = pairs(DRAWS, channels=1, height=16, width=16)
    augment = create_augment('keep-paste', size=6, tau=None, reprob=reprob, remode='const', recount=2)
    out, _ = augment(x, target, seeded())
    erased = out == 0.0
    assert not (erased & augment.last['mask']).any()
    assert torch.equal(augment.last['clean'], x[:DRAWS])
    assert torch.equal(out[augment.last['mask']], x[:DRAWS][augment.last['mask']])
    untouched = ~augment.last['mask'] & ~erased
    assert torch.equal(out[untouched], x[DRAWS:][untouched])
    # Under the pasted window too the augmented side is erased as often as asked, whatever is pasted over it later.
    hit = (augment.last['augmented'] == 0.0).flatten(1).any(1)
    assert hit.all() if reprob == 1.0 else rate_p(hit.sum().item(), DRAWS, reprob) > SIGNIFICANT


@pytest.mark.parametrize('target_rows', [2, 1])
@pytest.mark.parametrize('soft', [False, True])
def test_targets_of_pairs_or_of_samples(soft, target_rows):
    x, target = pairs(6)
    target = target[: 6 * target_rows]
    if soft:
        target = F.one_hot(target, 5).float()
    augment = create_augment('keep-paste', model=small_cnn(), size=8)
    out, label = augment(x, target, seeded())
    assert len(out) == 6 and torch.equal(label, target[:6])
    assert torch.equal(out, augment(x, pairs(6)[1], seeded())[0])


def test_unlabelled():
    x, _ = pairs(6)
    out, label = create_augment('keep-paste', model=small_cnn(), size=8)(x, None)
    assert len(out) == 6 and label is None


def test_switched_off_lets_the_clean_rows_through():
    x, target = pairs(6)
    augment = create_augment('keep-paste', model=small_cnn(), size=8)
    augment.enabled = False
    stream = torch.get_rng_state()
    out, label = augment(x, target)
    assert torch.equal(out, x[:6]) and torch.equal(label, target[:6]) and augment.last == {}
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize('rows, labels', [(5, None), (6, 4), (6, 5), (5, 5), (6, 12)])
def test_refuses_what_is_no_pairs(rows, labels):
    target = None if labels is None else torch.zeros(labels, dtype=torch.long)
    with pytest.raises(ValueError, match=f'as many augmented rows as clean ones, got {rows} rows'):
        split_pairs(torch.zeros(rows, 1, 4, 4), target)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(size=0), 'size must be at least 1 pixel, got 0'),
        (dict(tau=1.5), 'tau must be between 0 and 1.* got 1.5'),
        (dict(prob=-1.0), 'prob must be between 0 and 1.* got -1'),
        (dict(reprob=2.0), 'reprob must be between 0 and 1.* got 2'),
        (dict(model=None), 'Saliency needs a model.*tau=None'),
    ],
)
def test_refuses_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_augment('keep-paste', **{'model': small_cnn(), **arguments})


def test_refuses_a_window_larger_than_the_image():
    with pytest.raises(ValueError, match='size must be at most 32.* got 33'):
        create_augment('keep-paste', size=33, tau=None)(*pairs(2))
