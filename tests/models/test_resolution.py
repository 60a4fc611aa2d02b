"""A model at another resolution: timm's own resized copy is the reference, and the weights stay where they are."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from keepaug import EarlyExit
from keepaug.functional import input_saliency
from keepaug.functional.saliency import in_eval_mode
from keepaug.models.position_tables import resample
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
# The same for models without `set_input_size`, whose small settings are not those of their architecture.
REBUILT: dict[str, dict[str, Any]] = {
    'cait_xxs24_224': VIT,
    'convit_tiny': VIT,
    'gmlp_ti16_224': dict(img_size=SIZE),
    'levit_128s': dict(img_size=SIZE),
    'pit_ti_224': dict(img_size=(96, SIZE)),
    'tnt_s_legacy_patch16_224': dict(img_size=SIZE, depth=1),
}
FIXED_SIZE = {**RESIZED, **REBUILT}

# Of BACKBONES, those that timm builds for one image size.
TWINS = ('swin', 'swinv2', 'levit')


def create(name: str) -> nn.Module:
    """A model in training mode."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **FIXED_SIZE[name])
    move_weights(model, 0.3 if name in RESIZED else 0.05)  # without overflow in deep models of untrained batch norm
    return model


def move_weights(model: nn.Module, step: float = 0.3) -> None:
    """Steps so large that positions matter as much as all else."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(step * torch.randn(parameter.shape))


def full_size(name: str) -> tuple[int, int]:
    size = FIXED_SIZE[name]['img_size']
    return (size, size) if isinstance(size, int) else size


def half_size(name: str) -> tuple[int, int]:
    height, width = full_size(name)
    return height // 2, width // 2


def images(size: tuple[int, int], n: int = 2) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def twin_of(model: nn.Module, size: tuple[int, int], built_for: tuple[int, int]) -> ResizedTwin:
    """The twin, chosen by `at_resolution` for a model that is built for images of another size."""
    like = images(built_for).to(next(model.parameters()).dtype)
    twin, chosen = at_resolution(model, size, like)
    assert isinstance(twin, ResizedTwin) and chosen == size
    return twin


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
    twin = twin_of(model, size, full_size(name))
    expected = outputs(resized_copy(model, size), x)
    assert torch.equal(outputs(twin, x), expected)

    # The weights move on, and the twin moves with them.
    move_weights(model)
    moved = outputs(resized_copy(model, size), x)
    assert not torch.allclose(moved, expected)
    assert torch.equal(outputs(twin, x), moved)


@pytest.mark.parametrize('name', REBUILT)
def test_twin_equals_a_model_built_for_the_size(name):
    model, size = create(name), half_size(name)
    x = images(size)
    twin = twin_of(model, size, full_size(name))
    built = timm.create_model(name, num_classes=5, **dict(REBUILT[name], img_size=size))
    state, sizes = model.state_dict(), (full_size(name), size)
    for path, parameter in built.named_parameters():
        if parameter.shape != state[path].shape:
            owner, _, last = path.rpartition('.')
            state[path] = resample(last, state[path], parameter.shape, sizes, built.get_submodule(owner))
    built.load_state_dict(state)
    torch.testing.assert_close(outputs(twin, x), outputs(built, x))


@pytest.mark.parametrize('name', ['levit_128s', 'cait_xxs24_224', 'swin_tiny_patch4_window7_224'])
def test_early_classifier_has_a_twin(name):
    model, size = create(name), half_size(name)
    early = EarlyExit(model).early_classifier()
    twin = twin_of(early, size, full_size(name))
    saliency = input_saliency(twin, images(size), torch.tensor([0, 4]))
    assert (saliency.amax((1, 2, 3)) > 0.0).all()


@pytest.mark.parametrize(
    'name, size, expected',
    [
        ('dla46x_c', (48, 80), (32, 64)),  # adds features of reduction 32 to enlarged ones
        ('resnet10t', (48, 80), (48, 80)),
        ('test_coatnet', (80, 80), (64, 64)),  # its windows divide multiples of 32 px only
    ],
)
def test_size_is_rounded_down_where_it_must_be(name, size, expected):
    model = timm.create_model(name, num_classes=5)
    assert at_resolution(model, size, images((2 * size[0], 2 * size[1])))[1] == expected


def test_size_is_not_rounded_up():
    model = timm.create_model('dla46x_c', num_classes=5)
    assert at_resolution(model, (16, 16), images((32, 32))) is None


def test_model_that_runs_with_its_tables_off_gets_a_twin():
    """As MViT, which takes the first of the relative positions it has, whatever the size."""

    class Cropping(nn.Module):
        pretrained_cfg = dict(fixed_input_size=True)

        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.randn(1, 64, 2))

        def set_input_size(self, img_size: tuple[int, int]) -> None:
            self.pos_embed = nn.Parameter(torch.empty(1, img_size[0] * img_size[1], 2))

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            return (tokens[..., :2] * self.pos_embed[:, : tokens.shape[1]]).sum(1)

    model = Cropping()
    twin = twin_of(model, (4, 4), (8, 8))
    model.pretrained_cfg = {}
    assert at_resolution(model, (4, 4), images((8, 8))) == (model, (4, 4))
    x = images((4, 4))
    assert not torch.allclose(outputs(twin, x), outputs(model, x))


@pytest.mark.parametrize('name', FIXED_SIZE)
def test_twin_of_equal_size_is_the_model(name):
    model, size = create(name), full_size(name)
    x, target = images(size), torch.tensor([0, 4])
    twin = ResizedTwin(model, size, size)
    assert torch.equal(outputs(twin, x), outputs(model, x))
    torch.testing.assert_close(input_saliency(twin, x, target), input_saliency(model, x, target))


@pytest.mark.parametrize('name', RESIZED)
def test_saliency_at_half_size_is_the_resized_copys(name):
    model, size = create(name), half_size(name)
    x, target = images(full_size(name)), torch.tensor([0, 4])
    saliency = input_saliency(twin_of(model, size, full_size(name)), x, target, size=size)
    assert saliency.shape == (2, 1, *size) and (saliency.amax((1, 2, 3)) > 0.0).all()
    torch.testing.assert_close(saliency, input_saliency(resized_copy(model, size), x, target, size=size))


@pytest.mark.parametrize('name', FIXED_SIZE)
def test_model_is_untouched(name):
    model, size = create(name), half_size(name)
    leave_marks(model)
    x = images(size)
    names = list(model.state_dict())
    before = everything(model)
    twin = twin_of(model, size, full_size(name))
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
    chosen = at_resolution(model, size, images((SIZE, SIZE)))
    assert_untouched(before, model)
    if name in FIXED:
        assert chosen is None
    else:
        assert isinstance(chosen[0], ResizedTwin) == (name in TWINS) and chosen[1] == size


@pytest.mark.parametrize('name', ['test_vit3', 'swin_tiny_patch4_window7_224'])
def test_half_precision(name):
    model, size = create(name), half_size(name)
    x = images(size)
    expected = outputs(twin_of(model, size, full_size(name)), x)
    x = x.bfloat16()
    model.bfloat16()
    half = outputs(twin_of(model, size, full_size(name)), x).float()
    assert (half - expected).norm() < 0.1 * expected.norm()


def test_shared_weights_stay_shared():
    model = create('test_vit3')
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    x = images((32, 32))
    twin = twin_of(model, (32, 32), (SIZE, SIZE))
    assert torch.equal(outputs(twin, x), outputs(resized_copy(model, (32, 32)), x))
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight.mul_(3.0)
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
    assert at_resolution(model, (8, 8), images((8, 8))) == (model, (8, 8))
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
        assert at_resolution(model, (4, 4), x) == (model, (4, 4))
        model(x).float().sum().backward()
    assert model.seen == [False, True]
    assert model.layer.weight.grad.count_nonzero() > 0
