"""Selective cut: what is removed lies below the quantile of its own saliency, and nothing else changes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug import create_augment
from keepaug.functional import boxes_to_mask, region_scores
from tests.functional.reference import SIGNIFICANT, admitted_places, independent_p, rate_p, uniform_p
from tests.functional.toys import SquareModel, linear_model, small_cnn

DRAWS = 10_000
MODES = ['cutout', 'erase']
# Edges are shares of the image: 4 of 16 px.
SQUARE = (6 / 16, 6 / 16, 10 / 16, 10 / 16)


class NeverCalled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError('a blind draw needs no model')


def batch(n: int = 6, channels: int = 3, height: int = 32, width: int = 32) -> tuple[Tensor, Tensor]:
    """Images without a single 0, so that removed pixels show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, height, width, generator=generator)
    return torch.where(x == 0.0, 1.0, x), torch.randint(5, (n,), generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('saliency', ['full', 'low'])
def test_planted_evidence_is_never_cut(saliency):
    """The evidence fills 4 x 4 px of 16 x 16: most 3 x 3 windows score 0, and those are the ones to draw from."""
    x, _ = batch(DRAWS, channels=1, height=16, width=16)
    target = torch.arange(DRAWS) % 4
    keep = create_augment('keep-cut', model=SquareModel(SQUARE, channels=1), size=3, saliency=saliency)
    blind = create_augment('keep-cut', size=3, tau=None)
    evidence = boxes_to_mask(torch.tensor([[6, 6, 10, 10]]), (16, 16))

    out, _ = keep(x, target, seeded())
    assert (keep.last['saliency'].flatten(1) > 0.0).any(1).all()
    assert not (keep.last['mask'] & evidence).any()
    assert torch.equal(out[:, :, 6:10, 6:10], x[:, :, 6:10, 6:10])

    # Of 14 x 14 windows 6 x 6 touch the square, and 2 x 2 lie within it.
    blind(x, target, seeded())
    touched = (blind.last['mask'] & evidence).flatten(1).sum(1)
    assert rate_p((touched > 0).sum().item(), DRAWS, (6 / 14) ** 2) > SIGNIFICANT
    assert rate_p((touched == 9).sum().item(), DRAWS, (2 / 14) ** 2) > SIGNIFICANT


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('tau', [0.0, 0.3, 0.6, 1.0])
def test_cut_lies_below_the_quantile_of_its_own_saliency(tau, mode):
    x, target = batch(200, height=24, width=30)
    augment = create_augment('keep-cut', model=small_cnn(), mode=mode, size=7, tau=tau, saliency='full')
    augment(x, target, seeded())
    boxes, saliency = augment.last['boxes'], augment.last['saliency']
    assert boxes.shape == (200, 1, 4) and saliency.shape == (200, 1, 24, 30)
    for (x0, y0, x1, y1), shown in zip(boxes[:, 0].tolist(), saliency):
        scores = region_scores(shown[None], (y1 - y0, x1 - x0))[0]
        assert admitted_places(scores, tau, 'low')[y0, x0]


def test_every_admitted_window_is_drawn_alike():
    # One map for all: a linear model's saliency does not depend on the image.
    weights = torch.randn(2, 1, 8, 9, generator=seeded(1))
    augment = create_augment('keep-cut', model=linear_model(weights), size=3, saliency='full')
    augment(torch.randn(DRAWS, 1, 8, 9), torch.ones(DRAWS, dtype=torch.long), seeded())
    admitted = admitted_places(region_scores(weights[1:].abs(), (3, 3))[0], 0.6, 'low')
    places = torch.from_numpy(np.flatnonzero(admitted))
    box = augment.last['boxes'][:, 0]
    index = torch.searchsorted(places, box[:, 1] * 7 + box[:, 0])
    assert torch.equal(places[index.clamp(max=len(places) - 1)], box[:, 1] * 7 + box[:, 0])
    assert uniform_p(index, len(places)) > SIGNIFICANT
    assert rate_p((index[0::2] == index[1::2]).sum().item(), DRAWS // 2, 1 / len(places)) > SIGNIFICANT


def test_saliency_is_that_of_the_label():
    weights = torch.zeros(2, 1, 8, 8)
    weights[0, :, :, :4] = 1.0
    weights[1, :, :, 4:] = 1.0
    model = linear_model(weights, torch.tensor([0.0, 1e3]))
    augment = create_augment('keep-cut', model=model, size=2, tau=0.4, saliency='full')
    target = torch.arange(200) % 2
    augment(torch.ones(200, 1, 8, 8), target, seeded())
    x0 = augment.last['boxes'][:, 0, 0]
    # Class 0 is told by the left half, so the right one may go, although class 1 is predicted for all.
    assert (x0[target == 0] >= 4).all() and (x0[target == 1] <= 2).all()


@pytest.mark.parametrize('tau', [0.6, None])
@pytest.mark.parametrize('fill', ['zero', 'const', 'rand', 'pixel'])
@pytest.mark.parametrize('mode', MODES)
def test_fill(mode, fill, tau):
    x, target = batch(64)
    given = x.clone()
    augment = create_augment('keep-cut', model=small_cnn(), mode=mode, fill=fill, size=8, tau=tau)
    out, label = augment(x, target, seeded())
    assert torch.equal(x, given), 'inputs are not modified'
    assert label is target
    mask = augment.last['mask']
    assert torch.equal(mask, boxes_to_mask(augment.last['boxes'][:, 0], (32, 32)))
    assert torch.equal(out[~mask.expand_as(x)], x[~mask.expand_as(x)])
    colours = [image[:, cut[0]] for image, cut in zip(out, mask)]
    if fill in ('zero', 'const'):
        assert all((colour == 0.0).all() for colour in colours)
    elif fill == 'rand':
        assert all((colour == colour[:, :1]).all() for colour in colours), 'one colour per image'
        drawn = torch.stack([colour[:, 0] for colour in colours])
        assert len(drawn.unique()) == drawn.numel()
        assert abs(drawn.mean()) < 5 * drawn.numel() ** -0.5 and 0.8 < drawn.std() < 1.2
    else:
        drawn = torch.cat([colour.flatten() for colour in colours])
        assert len(drawn.unique()) > 0.99 * len(drawn), 'one colour per pixel'
        assert abs(drawn.mean()) < 5 * len(drawn) ** -0.5 and 0.95 < drawn.std() < 1.05


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('prob', [0.0, 0.5, 1.0])
def test_probability_is_per_image(prob, mode):
    x, target = batch(DRAWS, channels=1, height=12, width=12)
    augment = create_augment('keep-cut', mode=mode, size=4, tau=None, prob=prob)
    out, _ = augment(x, target, seeded())
    cut = augment.last['mask'].flatten(1).any(1)
    assert torch.equal(cut, (out != x).flatten(1).any(1))
    assert torch.equal(cut, augment.last['boxes'][:, 0].any(1)), 'an image that is not cut has an empty box'
    if prob in (0.0, 1.0):
        assert cut.double().mean() == prob
    else:
        assert rate_p(cut.sum().item(), DRAWS, prob) > SIGNIFICANT
        assert independent_p(cut.long(), 2) > SIGNIFICANT


def test_probability_does_not_bias_the_place():
    x, target = batch(2 * DRAWS, channels=1, height=6, width=7)
    augment = create_augment('keep-cut', size=4, tau=None, prob=0.5)
    augment(x, target, seeded())
    box = augment.last['boxes'][:, 0]
    box = box[box.any(1)]
    assert uniform_p(box[:, 1] * 4 + box[:, 0], 12) > SIGNIFICANT


def test_switched_off():
    x, target = batch()
    augment = create_augment('keep-cut', model=NeverCalled(), size=8)
    augment.last = {'mask': x}
    augment.enabled = False
    stream = torch.get_rng_state()
    out, label = augment(x, target)
    assert out is x and label is target and augment.last == {}
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize('model', [None, NeverCalled()])
def test_blind_control_is_uniform_and_asks_no_model(model):
    x, target = batch(DRAWS, channels=1, height=6, width=7)
    augment = create_augment('keep-cut', model=model, size=4, tau=None)
    augment(x, target, seeded())
    assert augment.last['saliency'] is None
    box = augment.last['boxes'][:, 0]
    place = box[:, 1] * 4 + box[:, 0]
    assert uniform_p(place, 12) > SIGNIFICANT
    assert independent_p(place, 12) > SIGNIFICANT
    assert box[:, 2].max() == 7 and box[:, 3].max() == 6
    assert (augment.last['mask'].sum((1, 2, 3)) == 16).all(), 'no window overflows the border'


@pytest.mark.parametrize('height, width, edge', [(32, 32, 16), (95, 224, 16), (96, 96, 40), (224, 128, 40)])
def test_default_size(height, width, edge):
    augment = create_augment('keep-cut', tau=None)
    augment(*batch(2, 1, height, width), seeded())
    assert (augment.last['mask'].sum((1, 2, 3)) == edge**2).all()


@pytest.mark.parametrize('size, height, width', [(33, 32, 64), (17, 32, 16), (None, 8, 8)])
def test_refuses_a_window_larger_than_the_image(size, height, width):
    augment = create_augment('keep-cut', size=size, tau=None)
    message = f'size must be at most {min(height, width)} for images of {height} x {width} pixels, got {size or 16}'
    with pytest.raises(ValueError, match=message):
        augment(*batch(2, 1, height, width))


def test_window_as_large_as_the_image():
    x, target = batch(3, height=12, width=12)
    out, _ = create_augment('keep-cut', model=small_cnn(), size=12)(x, target)
    assert (out == 0.0).all()


@pytest.mark.parametrize('mode', MODES)
def test_target_of_any_kind(mode):
    x, target = batch(8)
    model = small_cnn()
    augment = create_augment('keep-cut', model=model, mode=mode, size=8, saliency='full')
    soft = F.one_hot(target, 5).float()
    maps = []
    for given in (target, soft, model.eval()(x).argmax(1), None):
        label = None if given is None else given.clone()
        out, returned = augment(x, given, seeded())
        assert returned is given and (given is None or torch.equal(given, label))
        maps.append(augment.last['saliency'])
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(maps[3], maps[2])


@pytest.mark.parametrize('prob', [0.5, 1.0])
@pytest.mark.parametrize('fill', ['zero', 'rand', 'pixel'])
@pytest.mark.parametrize('mode', MODES)
def test_generator_is_the_only_source(mode, fill, prob):
    x, target = batch(16)
    augment = create_augment('keep-cut', model=small_cnn(), mode=mode, fill=fill, size=8, prob=prob, max_count=2)
    stream = torch.get_rng_state()
    first, again, other = (augment(x, target, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), stream)


def test_default_stream_without_generator():
    x, target = batch(16)
    augment = create_augment('keep-cut', model=small_cnn(), size=8)
    torch.manual_seed(3)
    first, _ = augment(x, target)
    second, _ = augment(x, target)
    torch.manual_seed(3)
    assert torch.equal(augment(x, target)[0], first)
    assert not torch.equal(first, second)


def test_model_that_knows_nothing_gives_a_blind_draw():
    # A network whose saliency is not a number anywhere must neither hang nor spread what is not a number.
    x, target = batch(DRAWS, channels=1, height=6, width=7)
    weights = torch.full((5, 1, 6, 7), float('nan'))
    augment = create_augment('keep-cut', model=linear_model(weights), size=4, saliency='full')
    out, _ = augment(x, target, seeded())
    box = augment.last['boxes'][:, 0]
    assert out.isfinite().all()
    assert uniform_p(box[:, 1] * 4 + box[:, 0], 12) > SIGNIFICANT


def test_last_is_detached_and_of_the_last_batch():
    augment = create_augment('keep-cut', model=small_cnn(), size=8)
    for n in (6, 3):
        augment(*batch(n))
        assert all(len(value) == n and not value.requires_grad for value in augment.last.values())
    assert sorted(augment.last) == ['boxes', 'mask', 'saliency']
    assert augment.last['boxes'].dtype == torch.int64 and augment.last['mask'].dtype == torch.bool


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(mode='cut'), 'mode must be .*cut'),
        (dict(fill='noise'), 'fill must be zero, const, rand or pixel, got noise'),
        (dict(size=0), 'size must be at least 1 pixel, got 0'),
        (dict(tau=1.5), 'tau must be between 0 and 1.* got 1.5'),
        (dict(tau=-0.1), 'tau must be between 0 and 1.* got -0.1'),
        (dict(tau=float('nan')), 'tau must be between 0 and 1'),
        (dict(prob=1.1), 'prob must be between 0 and 1.* got 1.1'),
        (dict(prob=-1.0), 'prob must be between 0 and 1'),
        (dict(max_count=0), 'max_count must be at least 1, got 0'),
        (dict(saliency='half'), 'saliency must be .*half'),
        (dict(low_scale=0.0), 'low_scale must be between 0.1 and 1, got 0.0'),
        (dict(low_scale=1.5), 'low_scale must be between 0.1 and 1, got 1.5'),
        (dict(model=None), 'Saliency needs a model.*tau=None'),
    ],
)
def test_refuses_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_augment('keep-cut', **{'model': small_cnn(), **arguments})
