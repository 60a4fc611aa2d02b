"""Backbones of many families, small, and a record of all that a pure pass must leave as it was."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.mlp_mixer import MlpMixer
from timm.models.vgg import VGG
from torch import Tensor, nn

SIZE = 64
CLASSES = 7
SWIN = dict(img_size=SIZE, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2))
REPVGG = ByoModelCfg(tuple(ByoBlockCfg('rep', d=2, c=chs, s=2) for chs in (16, 32, 64)), stem_type='rep', stem_chs=16)
# Builders of models for 64 px images, by the name of their kind.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    'resnet': partial(timm.create_model, 'resnet10t', channels=(16, 32, 64, 128)),
    'convnext': partial(timm.create_model, 'test_convnext'),
    'efficientnet': partial(timm.create_model, 'test_efficientnet'),
    'densenet': partial(timm.create_model, 'densenet121', growth_rate=8, block_config=(2, 2)),
    'vgg_bn': partial(VGG, [8, 'M', 16, 'M', 16], norm_layer=nn.BatchNorm2d, mlp_ratio=0.01),
    'repvgg': partial(ByobNet, REPVGG),
    'vit': partial(timm.create_model, 'test_vit', img_size=SIZE, drop_path_rate=0.2),
    'swin': partial(timm.create_model, 'swin_tiny_patch4_window7_224', **SWIN),
    'swinv2': partial(timm.create_model, 'swinv2_tiny_window8_256', **SWIN),
    'mixer': partial(MlpMixer, img_size=SIZE, num_blocks=2, embed_dim=32),
    'levit': partial(timm.create_model, 'levit_128s', img_size=SIZE, embed_dim=(32, 48, 64), depth=(1, 1, 1)),
}
# Built without timm's registry: its weights fit one image size, and there is no telling what they are for another.
FIXED = ('mixer',)


def create_backbone(name: str) -> nn.Module:
    """A backbone of the table with dropout before its head, in training mode."""
    torch.manual_seed(0)
    model = BACKBONES[name](num_classes=CLASSES, drop_rate=0.2)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():  # a head that starts at zero has no saliency
            nn.init.normal_(parameter, std=0.1)
    return model


def leave_marks(model: nn.Module) -> None:
    """Gives a model what a careless pass destroys: gradients, a frozen layer, a norm in eval mode, statistics."""
    generator = torch.Generator().manual_seed(1)
    parameters = list(model.parameters())
    for parameter in parameters[::2]:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    for parameter in parameters[:2]:
        parameter.requires_grad = False
    norms = [module for module in model.modules() if 'Norm' in type(module).__name__]
    norms[0].eval()
    for name, buffer in model.named_buffers():
        if name.endswith('running_mean'):
            buffer.normal_(generator=generator)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a pure pass leaves bit-identical, copied."""
    record: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        record[f'{name}: parameter'] = (id(parameter), parameter.data_ptr(), parameter.detach().clone())
        record[f'{name}: requires_grad'] = parameter.requires_grad
        record[f'{name}: grad'] = None if parameter.grad is None else (id(parameter.grad), parameter.grad.clone())
    for name, buffer in model.named_buffers():
        record[f'{name}: buffer'] = (id(buffer), buffer.clone())
    for name, module in model.named_modules():
        record[f'{name}: training'] = module.training
        record[f'{name}: attributes'] = sorted(vars(module))
        record[f'{name}: cached'] = [len(value) for value in vars(module).values() if isinstance(value, (dict, list))]
    record['torch stream'] = torch.get_rng_state()
    record['numpy stream'] = np.random.get_state()
    record['python stream'] = random.getstate()
    return record


def assert_untouched(before: dict[str, Any], model: nn.Module) -> None:
    """Compares bit by bit with an earlier record."""
    after = everything(model)
    assert list(before) == list(after)
    for name, value in before.items():
        assert _equal(value, after[name]), name


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, (Tensor, np.ndarray)):
        return bytes(_numbers(first)) == bytes(_numbers(second))
    if isinstance(first, tuple):
        return len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second))
    return first == second


def _numbers(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.contiguous().reshape(-1).view(torch.uint8).numpy() if values.numel() else np.empty(0)
    return values
