"""A model at another resolution: timm's own resized copy is the reference, and the weights stay where they are."""
import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from keepaug.functional import input_saliency
from keepaug.functional.saliency import in_eval_mode
from keepaug.models.resolution import ResizedTwin, at_resolution
from tests.functional.backbones import (
    BACKBONES,
    FIXED,
    SIZE,
    SWIN,
    assert_untouched,
    create_backbone,
    everything,
    leave_marks,
)

pytestmark = pytest.mark.filterwarnings(
    'ignore:torch.searchsorted:UserWarning', 'ignore:Using a non-tuple sequence:UserWarning')  # timm resizing tables

VIT = dict(img_size=SIZE, embed_dim=48, depth=2, num_heads=3)
# One model for each way timm has of putting positions into weights or tables.
RESIZED: dict[str, dict[str, Any]] = {
    'test_vit3': dict(img_size=SIZE),
    'deit_tiny_distilled_patch16_224': VIT,
    'vit_tiny_patch16_224': dict(VIT, img_size=(96, SIZE)),
    'vit_relpos_base_patch16_clsgap_224': VIT,
    'vit_small_patch16_rope_mixed_224': VIT,
    'beitv2_base_patch16_224': VIT,
    'eva02_tiny_patch14_224': dict(VIT, img_size=56),
    'swin_tiny_patch4_window7_224': dict(SWIN, window_size=8),
    'swinv2_tiny_window8_256': SWIN,
}


def create(name: str) -> nn.Module:
    """A model in training mode."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **RESIZED[name])
    move_weights(model)
    return model


def move_weights(model: nn.Module) -> None:
    """Steps so large that positions matter as much as all else."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))


def full_size(name: str) -> tuple[int, int]:
    size = RESIZED[name]['img_size']
    return (size, size) if isinstance(size, int) else size


def half_size(name: str) -> tuple[int, int]:
    height, width = full_size(name)
    return height // 2, width // 2


def images(size: tuple[int, int], n: int = 2) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Logits in eval mode; the model stays in the mode it is in."""
    with torch.no_grad(), in_eval_mode(model):
        return model(x)


def resized_copy(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """What timm makes of the present weights."""
    model = copy.deepcopy(model)
    model.set_input_size(img_size=size)
    return model


@pytest.mark.parametrize('name', RESIZED)
def test_twin_equals_timms_resized_copy(name):
    model, size = create(name), half_size(name)
    x = images(size)
    twin = at_resolution(model, size, x)
    assert isinstance(twin, ResizedTwin)
    expected = outputs(resized_copy(model, size), x)
    assert torch.equal(outputs(twin, x), expected)

    # The weights move on, and the twin moves with them.
    move_weights(model)
    moved = outputs(resized_copy(model, size), x)
    assert not torch.allclose(moved, expected)
    assert torch.equal(outputs(twin, x), moved)


@pytest.mark.parametrize('name', RESIZED)
def test_twin_of_equal_size_is_the_model(name):
    model, size = create(name), full_size(name)
    x, target = images(size), torch.tensor([0, 4])
    twin = ResizedTwin(model, size)
    assert torch.equal(outputs(twin, x), outputs(model, x))
    torch.testing.assert_close(input_saliency(twin, x, target), input_saliency(model, x, target))


@pytest.mark.parametrize('name', RESIZED)
def test_saliency_at_half_size_is_the_resized_copys(name):
    model, size = create(name), half_size(name)
    x, target = images(full_size(name)), torch.tensor([0, 4])
    saliency = input_saliency(at_resolution(model, size, x), x, target, size=size)
    assert saliency.shape == (2, 1, *size) and (saliency.amax((1, 2, 3)) > 0.).all()
    torch.testing.assert_close(saliency, input_saliency(resized_copy(model, size), x, target, size=size))


@pytest.mark.parametrize('name', RESIZED)
def test_model_is_untouched(name):
    model, size = create(name), half_size(name)
    leave_marks(model)
    x = images(size)
    names = list(model.state_dict())
    before = everything(model)
    twin = at_resolution(model, size, x)
    input_saliency(twin, x, torch.tensor([0, 4]))
    assert_untouched(before, model)
    assert list(model.state_dict()) == names
    # The twin has no weights of its own: none to train, none to save, none in memory.
    assert [id(parameter) for parameter in twin.parameters()] == [id(parameter) for parameter in model.parameters()]
    assert list(twin.state_dict()) == [f'original.{name}' for name in names]
    assert all(parameter.is_meta for parameter in twin.twin.parameters())


@pytest.mark.parametrize('name', BACKBONES)
def test_families(name):
    model = create_backbone(name)
    leave_marks(model)
    before = everything(model)
    size = (SIZE // 2, SIZE // 2)
    runner = at_resolution(model, size, images(size))
    assert_untouched(before, model)
    if name in FIXED:
        assert runner is None
    elif name.startswith('swin'):
        assert isinstance(runner, ResizedTwin)
    else:
        assert runner is model


@pytest.mark.parametrize('name', ['test_vit3', 'swin_tiny_patch4_window7_224'])
def test_half_precision(name):
    model, size = create(name), half_size(name)
    x = images(size)
    expected = outputs(at_resolution(model, size, x), x)
    x = x.bfloat16()
    model.bfloat16()
    half = outputs(at_resolution(model, size, x), x).float()
    assert (half - expected).norm() < 0.1 * expected.norm()


def test_shared_weights_stay_shared():
    model = create('test_vit3')
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    x = images((32, 32))
    twin = at_resolution(model, (32, 32), x)
    assert torch.equal(outputs(twin, x), outputs(resized_copy(model, (32, 32)), x))
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight.mul_(3.)
    assert torch.equal(outputs(twin, x), outputs(resized_copy(model, (32, 32)), x))


def test_model_that_timm_cannot_resize():
    class Stubborn(nn.Module):
        """Takes one size, and says no in its own way."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 8 * 8, 2)

        def set_input_size(self, img_size: tuple[int, int]) -> None:
            raise NotImplementedError

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1))

    model = Stubborn()
    assert at_resolution(model, (8, 8), images((8, 8))) is model
    assert at_resolution(model, (4, 4), images((8, 8))) is None


def test_trial_runs_without_the_parameters_graph():
    """Under autocast a trial without gradient must leave no cast weights for the training step that follows."""
    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)
            self.seen: list[bool] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(self.layer.weight.requires_grad)
            return self.layer(x).mean((2, 3))

    model = Spy()
    x = images((8, 8))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert at_resolution(model, (4, 4), x) is model
        model(x).float().sum().backward()
    assert model.seen == [False, True]
    assert model.layer.weight.grad.count_nonzero() > 0
