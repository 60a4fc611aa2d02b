"""Attention grids: a planted cell is found in every family, the pass is pure, and the best cells become the mask."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from timm.models.vgg import VGG
from torch import nn

from keepaug.functional import attention_grid, top_patches_mask
from keepaug.functional.attention import attention_map, ends_in_channel_norm
from tests.functional.backbones import (
    BACKBONES,
    SIZE,
    assert_untouched,
    create_backbone,
    everything,
    leave_marks,
)
from tests.functional.reference import SIGNIFICANT, uniform_p

CHANNEL_NORM = {'convnext', 'vit', 'swin', 'swinv2', 'mixer'}


def create_teacher(name: str) -> nn.Module:
    return VGG([8, 'M', 16, 'M', 16], mlp_ratio=0.01) if name == 'vgg' else create_backbone(name)


FAMILIES = [*BACKBONES, 'vgg']


def plant(model: nn.Module, row: int, column: int, height: int, width: int) -> None:
    """Replaces what the last stage gives out by zeros and one bright cell, in the layout of that stage."""
    channels = model.feature_info[-1]['num_chs']
    bright = torch.linspace(1.0, 2.0, channels)

    def replace(module, inputs, output):
        planted = torch.zeros_like(output)
        if output.ndim == 3:
            prefix = output.shape[1] - height * width
            planted[:, :prefix] = 100.0
            planted[:, prefix + row * width + column] = bright
        elif output.shape[1] == channels:
            planted[:, :, row, column] = bright
        else:
            planted[:, row, column] = bright
        return planted

    model.get_submodule(model.feature_info[-1]['module']).register_forward_hook(replace)


@pytest.mark.parametrize('name', FAMILIES)
def test_planted_cell_is_found(name):
    model = create_teacher(name)
    x = torch.zeros(2, 3, SIZE, SIZE)
    height, width = attention_map(model, x).shape[1:]
    row, column = (height - 1) // 2, width - 1
    plant(model, row, column, height, width)
    found = attention_map(model, x)
    assert found.flatten(1).argmax(1).tolist() == [row * width + column] * 2
    if height == width and height <= 7:
        grid = attention_grid(model, x, 7)
        centre = [int((place + 0.5) * 7 / height) for place in (row, column)]
        assert grid.shape == (2, 7, 7) and (grid[:, centre[0], centre[1]] == grid.amax((1, 2))).all()


@pytest.mark.parametrize('name', ['resnet', 'convnext', 'densenet', 'vit', 'swin'])
def test_bright_patch_of_the_image_is_found(name):
    model = create_teacher(name)
    x = torch.zeros(4, 3, SIZE, SIZE)
    for i, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        patch = torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(i))
        x[i, :, 32 * row + 4 : 32 * row + 28, 32 * column + 4 : 32 * column + 28] = 3 * patch
    background = attention_grid(model, torch.zeros(1, 3, SIZE, SIZE), 2)
    excess = (attention_grid(model, x, 2) - background).abs().flatten(1)
    assert excess.argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize('name', FAMILIES)
def test_which_models_end_in_a_norm_over_channels(name):
    assert ends_in_channel_norm(create_teacher(name)) == (name in CHANNEL_NORM)


def test_mean_of_an_activations_output():
    model = create_backbone('resnet').eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(attention_grid(model, x, 2), model.forward_features(x).mean(1).detach())


@pytest.mark.parametrize('name', ['convnext', 'vit', 'mixer'])
def test_length_of_what_comes_before_layer_norm(name):
    """A channel mean behind the norm is the same at every place, but for rounding."""
    model = create_backbone(name).eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    maps = model.forward_intermediates(x, norm=False, intermediates_only=True)
    torch.testing.assert_close(attention_map(model, x), maps[-1].norm(dim=1).detach())
    assert (attention_map(model, x).std((1, 2)) > 1e-3).all()


def test_larger_map_is_shrunk_to_the_grid():
    model = create_backbone('swin')  # 8 x 8
    plant(model, 5, 2, 8, 8)
    assert attention_grid(model, torch.zeros(1, 3, SIZE, SIZE), 4).flatten().argmax() == 2 * 4 + 1


@pytest.mark.parametrize(
    'context', [contextlib.nullcontext, torch.no_grad, lambda: torch.autocast('cpu', dtype=torch.bfloat16)]
)
@pytest.mark.parametrize('name', FAMILIES)
def test_pass_is_pure(name, context):
    model = create_teacher(name)
    if any('Norm' in type(module).__name__ for module in model.modules()):
        leave_marks(model)
    before = everything(model)
    x = torch.randn(2, 3, SIZE, SIZE)
    before['torch stream'] = torch.get_rng_state()
    with context():
        grid = attention_grid(model, x)
    assert_untouched(before, model)
    assert grid.shape == (2, 7, 7) and grid.dtype == torch.float32 and not grid.requires_grad
    assert grid.isfinite().all() and (grid >= 0).all()


def test_training_step_under_the_same_autocast_is_untouched():
    gradients = []
    for with_pass in (False, True):
        model = create_backbone('resnet').eval()
        x = torch.ones(2, 3, SIZE, SIZE)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            if with_pass:
                attention_grid(model, x)
            F.cross_entropy(model(x).float(), torch.tensor([0, 1])).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients))


def test_model_without_feature_maps_is_refused():
    with pytest.raises(ValueError, match='Linear has no forward_intermediates'):
        attention_grid(nn.Linear(3, 3), torch.zeros(1, 3))


# The mask.


def test_best_cells_by_hand():
    scores = torch.tensor([[[1.0, 5.0], [3.0, 2.0]], [[0.0, 0.0], [9.0, 8.0]]])
    mask = top_patches_mask(scores, 2, (4, 6))
    assert mask.shape == (2, 1, 4, 6) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2
    assert mask[1, 0].int().tolist() == [[0] * 6] * 2 + [[1] * 6] * 2


def test_six_of_forty_nine_patches():
    """The paper's numbers: 32 x 32 px each in an image of 224 px, a share of 6 / 49."""
    mask = top_patches_mask(torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0)), 6, (224, 224))
    assert (mask.sum((1, 2, 3)) == 6 * 32 * 32).all()


@pytest.mark.parametrize('size', [(32, 32), (40, 28), (7, 7), (5, 9), (225, 31)])
@pytest.mark.parametrize('n', [1, 6, 49])
def test_mask_agrees_with_a_loop(size, n):
    scores = torch.rand(4, 7, 7, generator=torch.Generator().manual_seed(n))
    mask = top_patches_mask(scores, n, size)
    for i in range(4):
        wanted = torch.zeros(size, dtype=torch.bool)
        for cell in scores[i].flatten().argsort(descending=True)[:n].tolist():
            row, column = divmod(cell, 7)
            y0, y1 = (line * size[0] // 7 for line in (row, row + 1))
            x0, x1 = (line * size[1] // 7 for line in (column, column + 1))
            wanted[y0:y1, x0:x1] = True
        assert torch.equal(mask[i, 0], wanted)


def test_every_cell_is_reached_and_each_equally_often():
    scores = torch.rand(10_000, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = top_patches_mask(scores, 1, (3, 3))
    assert (mask.sum((1, 2, 3)) == 1).all()
    assert uniform_p(mask.flatten(1).long().argmax(1), 9) > SIGNIFICANT


def test_scores_that_are_no_numbers_come_last():
    scores = torch.tensor([[[torch.nan, -torch.inf], [0.0, 1.0]]])
    assert top_patches_mask(scores, 2, (2, 2))[0, 0].tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize('n', [0, 5])
def test_number_of_cells_is_checked(n):
    with pytest.raises(ValueError, match=f'n = {n}'):
        top_patches_mask(torch.zeros(1, 2, 2), n, (4, 4))
