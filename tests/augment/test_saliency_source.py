"""Which pass gives an augmentation its maps: half size where the model can, its twin, or the full pass."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug import EarlyExit, create_augment
from keepaug.augment.saliency import PASSES, SaliencySource
from keepaug.functional import input_saliency
from keepaug.models.resolution import ResizedTwin
from tests.functional.backbones import (
    BACKBONES,
    CLASSES,
    FIXED,
    SIZE,
    assert_untouched,
    create_backbone,
    everything,
    leave_marks,
)
from tests.functional.toys import SquareModel

LOGGER = 'keepaug.augment.saliency'


def batch(height: int = SIZE, width: int = SIZE) -> tuple[Tensor, Tensor]:
    x = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0, CLASSES - 1, 3])


def record_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """The image sizes that a model is run at from now on."""
    sizes = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    return sizes


@pytest.mark.parametrize(
    'kind, scale, expected',
    [
        ('full', 0.5, (64, 48)),
        ('low', 0.5, (32, 24)),
        (None, 0.5, (32, 24)),
        ('low', 0.25, (16, 12)),
        ('low', 1.0, (64, 48)),
        ('low', 0.7, (45, 34)),
    ],
)
def test_size_of_the_pass(kind, scale, expected):
    model = create_backbone('resnet')
    x, target = batch(64, 48)
    augment = create_augment('keep-cut', model=model, size=16, saliency=kind, low_scale=scale)
    augment(x, target)
    sizes = record_sizes(model)
    out, _ = augment(x, target)
    assert sizes == [expected], 'one pass per batch'
    assert out.shape == x.shape and augment.last['saliency'].shape == (3, 1, 64, 48)


@pytest.mark.parametrize('kind, expected', [('early', (64, 48)), ('low-early', (32, 24))])
def test_early_passes_stop_at_the_head(kind, expected):
    model = EarlyExit(create_backbone('resnet'))
    x, target = batch(64, 48)
    source = SaliencySource(model, kind)
    source(x, target)
    sizes, late = record_sizes(model.backbone.conv1), record_sizes(model.backbone.layer2)
    saliency = source(x, target)
    assert sizes == [expected] and not late
    low = input_saliency(model.early_classifier(), x, target, size=expected)
    assert torch.equal(
        saliency,
        F.interpolate(low, size=(64, 48), mode='bilinear', align_corners=False) if kind == 'low-early' else low,
    )


def test_early_needs_a_head():
    with pytest.raises(ValueError, match='early head, model=keepaug.EarlyExit.* got early'):
        SaliencySource(create_backbone('resnet'), 'early')


@pytest.mark.parametrize('kind', PASSES)
@pytest.mark.parametrize('name', BACKBONES)
def test_every_pass_is_pure_beside_an_early_head(name, kind):
    model = EarlyExit(create_backbone(name))
    leave_marks(model)
    x, target = batch()
    before = everything(model)
    if name in FIXED and PASSES[kind].low:
        with pytest.raises(ValueError, match='must be'):
            SaliencySource(model, kind)(x, target)
    else:
        saliency = SaliencySource(model, kind)(x, target)
        assert saliency.shape == (3, 1, SIZE, SIZE) and (saliency.amax((1, 2, 3)) > 0.0).all()
    assert_untouched(before, model)


def test_low_map_is_brought_back_to_full_size():
    model = create_backbone('resnet')
    x, target = batch(64, 48)
    low = input_saliency(model, x, target, size=(32, 24))
    expected = F.interpolate(low, size=(64, 48), mode='bilinear', align_corners=False)
    assert torch.equal(SaliencySource(model, 'low')(x, target), expected)
    assert torch.equal(SaliencySource(model, 'full')(x, target), input_saliency(model, x, target))


def test_low_map_marks_what_the_full_one_marks():
    # Evidence in one known square, off the centre: a map turned or shifted on its way back would miss it.
    model = SquareModel((0.25, 0.5, 0.375, 0.75))
    x, target = batch(64, 64)
    saliency = SaliencySource(model, 'low')(x, target % 4)
    marked = (saliency > 0.5 * saliency.amax((2, 3), keepdim=True)).squeeze(1)
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[32:48, 16:24] = True
    assert torch.equal(marked, expected.expand(3, 64, 64))


@pytest.mark.parametrize('context', ['plain', 'autocast'])
@pytest.mark.parametrize('name', BACKBONES)
def test_default_pass_is_pure(name, context):
    model = create_backbone(name)
    leave_marks(model)
    before = everything(model)
    x, target = batch()
    source = SaliencySource(model)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=context == 'autocast'):
        first, second = source(x, target), source(x, target)
    assert_untouched(before, model)
    assert first.shape == (3, 1, SIZE, SIZE) and first.dtype == torch.float32 and not first.requires_grad
    assert torch.equal(first, second)
    assert first.isfinite().all() and (first.amax((1, 2, 3)) > 0.0).all()


def test_fixed_model_runs_as_its_twin_on_live_weights():
    model = create_backbone('swin')
    x, target = batch()
    source = SaliencySource(model, 'low')
    runner, size = source.resolve((SIZE, SIZE), x)
    assert isinstance(runner, ResizedTwin) and size == (SIZE // 2, SIZE // 2)
    assert source.resolve((SIZE, SIZE), x)[0] is runner, 'built once'
    before = source(x, target)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    assert not torch.allclose(source(x, target), before)
    fresh = create_backbone('swin')
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(source(x, target), SaliencySource(fresh, 'low')(x, target))


@pytest.mark.parametrize('name', FIXED)
def test_model_that_cannot_run_low_runs_full_and_says_so_once(name, caplog):
    model = create_backbone(name)
    x, target = batch()
    augment = create_augment('keep-cut', model=model, size=16)
    with caplog.at_level(logging.INFO, LOGGER):
        for _ in range(3):
            augment(x, target)
    (line,) = (record.getMessage() for record in caplog.records if record.name == LOGGER)
    assert type(model).__name__ in line and '32 x 32' in line and 'full' in line and '1.7' in line
    assert torch.equal(augment.last['saliency'], input_saliency(model, x, target))


def test_model_that_can_run_low_says_nothing(caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        SaliencySource(create_backbone('resnet'))(*batch())
    assert not caplog.records


@pytest.mark.parametrize('name', FIXED)
def test_low_is_refused_where_it_cannot_be(name):
    model = create_backbone(name)
    augment = create_augment('keep-cut', model=model, size=16, saliency='low')
    with pytest.raises(ValueError, match=f'must be full.*{type(model).__name__} cannot run at 32 x 32 px'):
        augment(*batch())


def test_each_image_size_has_its_own_pass():
    model = create_backbone('resnet')
    source = SaliencySource(model, 'low')
    source(*batch(64, 64)), source(*batch(48, 64))
    sizes = record_sizes(model)
    assert source(*batch(64, 64)).shape[-2:] == (64, 64)
    assert source(*batch(48, 64)).shape[-2:] == (48, 64)
    assert sizes == [(32, 32), (24, 32)]


@pytest.mark.parametrize('name', ['resnet', 'swin'])
def test_gradients_of_the_step_are_those_without_the_pass(name):
    """The first batch, on which it is also tried out how the model runs, and a later one, under one autocast."""
    x, target = batch()
    gradients = []
    for passes in (0, 1, 2):
        model = create_backbone(name).eval()
        source = SaliencySource(model)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            for _ in range(passes):
                source(x, target)
            F.cross_entropy(model(x).float(), target).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(first, other) for others in gradients[1:] for first, other in zip(gradients[0], others))
