"""Saliency of a layer: the norms of activation and gradient at each place, in any layout, and nothing touched."""

import pytest
import timm
import torch
from torch import Tensor, nn

from keepaug.augment.joint_occlusion import stem_end
from keepaug.functional import norm_grad_saliency
from keepaug.functional.saliency import channels_first
from tests.functional.backbones import (
    BACKBONES,
    CLASSES,
    SIZE,
    assert_untouched,
    create_backbone,
    everything,
    leave_marks,
)
from tests.functional.test_input_saliency import CONTEXTS
from tests.functional.toys import small_cnn


class Planted(nn.Module):
    """A layer that doubles the image; logit k is the sum of `weights[k]` (C, H, W) times what it gives."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 1, bias=False)
        self.unused = nn.Conv2d(2, 2, 1)
        self.weights = nn.Parameter(weights)
        with torch.no_grad():
            self.layer.weight.copy_(2.0 * torch.eye(2)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum('bchw,kchw->bk', self.layer(x), self.weights)


def test_planted_map():
    weights = torch.zeros(2, 2, 1, 2)
    weights[1] = torch.tensor([[[3.0, 1.0]], [[4.0, 0.0]]])
    x = torch.tensor([[[[0.0, 3.0]], [[1.0, 4.0]]]])
    for layer in ('layer', lambda model: model.layer):
        model = Planted(weights)
        saliency = norm_grad_saliency(model, layer if isinstance(layer, str) else layer(model), x, torch.tensor([1]))
        # Activations (0, 2) and (6, 8), gradients (3, 4) and (1, 0): norms 2 x 5 and 10 x 1.
        assert saliency.tolist() == [[[[10.0, 10.0]]]] and saliency.dtype == torch.float32


def slow_map(model: nn.Module, layer: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """One image at a time, with the whole graph kept, one place after the other."""
    model.eval()
    maps = []
    for image, label in zip(x, target):
        seen = []
        handle = layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        logit = model(image[None])[0, label]
        handle.remove()
        (gradient,) = torch.autograd.grad(logit, seen[0])
        height, width = gradient.shape[-2:]
        maps.append(
            torch.tensor(
                [
                    [(gradient[0, :, row, col].norm() * seen[0][0, :, row, col].norm()).item() for col in range(width)]
                    for row in range(height)
                ]
            )[None]
        )
    return torch.stack(maps)


@pytest.mark.parametrize('layer', ['0', '1', '4', '7'])
def test_equals_autograd_image_by_image(layer):
    x = torch.randn(3, 3, 9, 12, generator=torch.Generator().manual_seed(3))
    target = torch.tensor([4, 0, 2])
    model = small_cnn().train()
    saliency = norm_grad_saliency(model, layer, x, target)
    torch.testing.assert_close(saliency, slow_map(model, model.get_submodule(layer), x, target))


def test_layer_before_an_inplace_operation_and_a_shortcut():
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=CLASSES).eval()
    assert model.layer2[0].act1.inplace
    x, target = torch.randn(2, 3, SIZE, SIZE), torch.tensor([1, 3])
    for name in ('layer2.0.bn1', 'layer2', 'layer1.0'):
        torch.testing.assert_close(
            norm_grad_saliency(model, name, x, target), slow_inplace_map(model, name, x, target), rtol=1e-4, atol=1e-7
        )


def slow_inplace_map(model: nn.Module, name: str, x: Tensor, target: Tensor) -> Tensor:
    """The same on a model without in-place operations."""
    for module in model.modules():
        if hasattr(module, 'inplace'):
            module.inplace = False
    return slow_map(model, model.get_submodule(name), x, target)


@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('name', BACKBONES)
def test_pass_is_pure(name, context):
    model = create_backbone(name)
    leave_marks(model)
    before = everything(model)
    x, target = torch.randn(2, 3, SIZE, SIZE), torch.tensor([1, CLASSES - 1])
    image = x.clone()
    before['torch stream'] = torch.get_rng_state()
    with CONTEXTS[context]():
        saliency = norm_grad_saliency(model, stem_end(model), x, target)
        grad_mode = torch.is_grad_enabled()
    assert_untouched(before, model)
    assert torch.equal(x, image) and x.grad is None and grad_mode == (context != 'no_grad')
    assert saliency.dtype == torch.float32 and saliency.shape[:2] == (2, 1) and saliency.shape[2] == saliency.shape[3]
    assert not saliency.requires_grad and saliency.isfinite().all() and (saliency.amax((1, 2, 3)) > 0.0).all()


@pytest.mark.parametrize('name, layer', [('resnet', 'layer3'), ('vit', 'blocks.1'), ('swin', 'layers.1.blocks.0')])
def test_pass_is_pure_under_checkpointing(name, layer):
    model = create_backbone(name)
    leave_marks(model)
    x, target = torch.randn(2, 3, SIZE, SIZE), torch.tensor([1, 2])
    expected = norm_grad_saliency(model, layer, x, target)
    assert (expected > 0.0).any()
    model.set_grad_checkpointing()
    before = everything(model)
    saliency = norm_grad_saliency(model, layer, x, target)
    assert_untouched(before, model)
    torch.testing.assert_close(saliency, expected)


@pytest.mark.parametrize(
    'name, layer, grid',
    [
        ('vit', 'blocks.0', 4),
        ('swin', 'layers.0', 16),
        ('swin', 'layers.1', 8),
        ('swin', 'patch_embed.proj', 16),
        ('mixer', 'blocks.0', 4),
        ('levit', 'stages.0', 4),
        ('resnet', 'layer4', 2),
    ],
)
def test_resolution_of_the_layer(name, layer, grid):
    saliency = norm_grad_saliency(create_backbone(name), layer, torch.randn(1, 3, SIZE, SIZE), torch.tensor([1]))
    assert saliency.shape == (1, 1, grid, grid)


def test_layouts():
    """Maps first or last, tokens with and without prefix, each recognised by the shape of the image."""

    class Prefixed(nn.Module):
        num_prefix_tokens = 1

    class Last(nn.Module):
        output_fmt = 'NHWC'

    maps = torch.randn(2, 5, 8, 10)
    size = (64, 80)
    for model in (nn.Module(), Prefixed(), Last()):
        assert torch.equal(channels_first(maps, model, size), maps)
        assert torch.equal(channels_first(maps.permute(0, 2, 3, 1), model, size), maps)
        tokens = maps.flatten(2).transpose(1, 2)
        assert torch.equal(channels_first(tokens, model, size), maps)  # cait: a prefix is claimed and not there
    prefixed = torch.cat([torch.randn(2, 1, 5), maps.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(channels_first(prefixed, Prefixed(), size), maps)
    assert channels_first(prefixed, nn.Module(), size) is None
    square = torch.randn(1, 8, 8, 8)
    assert torch.equal(channels_first(square, nn.Module(), (64, 64)), square)
    assert torch.equal(channels_first(square, Last(), (64, 64)), square.permute(0, 3, 1, 2))
    assert channels_first(torch.randn(2, 7), nn.Module(), size) is None


@pytest.mark.parametrize(
    'layer, said',
    [('nowhere', 'name a module'), ('unused', 'logits depend on'), ('', 'logits depend on|maps of the image')],
)
def test_refuses_layers(layer, said):
    with pytest.raises(ValueError, match=said):
        norm_grad_saliency(Planted(torch.ones(2, 2, 3, 3)), layer, torch.randn(1, 2, 3, 3), torch.tensor([0]))


@pytest.mark.parametrize(
    'name',
    [
        'resnet18',
        'resnetv2_50',
        'convnext_atto',
        'mobilenetv3_small_050',
        'regnety_002',
        'densenet121',
        'ghostnet_050',
        'cifar_resnet18',
        'cifar_preact_resnet18',
        'test_vit',
        'levit_128s',
        'cait_xxs24_224',
        'xcit_nano_12_p16_224',
        'pvt_v2_b0',
        'hiera_tiny_224',
    ],
)
def test_default_layer_gives_a_map(name):
    sized = name in ('test_vit', 'levit_128s', 'cait_xxs24_224', 'hiera_tiny_224')
    model = timm.create_model(name, num_classes=3, **(dict(img_size=SIZE) if sized else {})).eval()
    saliency = norm_grad_saliency(model, stem_end(model), torch.randn(1, 3, SIZE, SIZE), torch.tensor([0]))
    assert saliency.shape[2] == saliency.shape[3] > 1 and saliency.isfinite().all()


def test_tokens_in_another_order_are_refused():
    model = timm.create_model('hiera_tiny_224', num_classes=3, img_size=SIZE)
    with pytest.raises(ValueError, match='maps of the image'):
        norm_grad_saliency(model, 'blocks.0', torch.randn(1, 3, SIZE, SIZE), torch.tensor([0]))
