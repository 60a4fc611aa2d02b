"""Dropping features inside a network: after the convolutions of its last stages, and on the shortcuts around them.

A stage is a module that timm's `feature_info` names. Forward hooks drop features at these places; nothing is added to
the model's parameters, buffers or state.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models import resnet
from torch import Tensor, nn

from keepaug.functional.dropping import drop_block_factor, dropout_factor, spatial_dropout_factor
from keepaug.models.early_exit import stage_info
from keepaug.models.hooks import hook_forward
from keepaug.models.pyramidnet import PyramidBlock
from keepaug.models.shake_shake import ShakeShakeBlock

KINDS = ('dropout', 'spatial', 'dropblock')
STAGES = 2

# DropBlock's paper drops a quarter as much before the last stage, where a map has four times the places (section 4.1).
EARLIER_SHARE = 0.25


class StageDropout:
    """Drops features in the training-mode forward passes of a model.

    The places are those of Occlusions, section 4.5, which are DropBlock's: after every convolution of the last two
    stages (the third and fourth of a ResNet). DropBlock also drops on the shortcuts of their blocks, and then not after
    convolutions that are part of a shortcut.

    Args:
        model: Bare model, not compiled yet. Its hooks are removed with this object.
        kind: 'dropout' drops single features, 'spatial' whole maps, 'dropblock' squares.
        block: Edge of a square, in places of a map.

    Raises:
        ValueError: The model has no stages of convolutions, or for DropBlock no shortcuts that are known.
    """

    def __init__(self, model: nn.Module, kind: str, block: int):
        self.prob = torch.zeros((), device=next(model.parameters()).device)
        hooks: list[tuple[nn.Module, Callable[..., Any]]] = []
        for stage, share in zip(last_stages(model), (EARLIER_SHARE if kind == 'dropblock' else 1.0, 1.0)):
            shortcuts = list(block_shortcuts(stage)) if kind == 'dropblock' else []
            if kind == 'dropblock' and not shortcuts:
                raise ValueError(
                    f'DropBlock also drops on shortcuts, but those of {type(model).__name__} are unknown: choose '
                    'dropout or spatial, or a ResNet.'
                )
            inside = {part for shortcut in shortcuts for part in shortcut.modules()}
            convolutions = [part for part in stage.modules() if isinstance(part, nn.Conv2d) and part not in inside]
            hook = _hook(kind, block, share, self.prob)
            hooks += [(place, hook) for place in (*convolutions, *shortcuts)]
        hook_forward(self, hooks)

    def set_prob(self, prob: float) -> None:
        """Sets the probability that a feature is dropped, from now on."""
        self.prob.fill_(prob)


def last_stages(model: nn.Module) -> list[nn.Module]:
    """The last two stages of a model.

    Raises:
        ValueError: They are not there, or hold no convolutions.
    """
    stages = [model.get_submodule(entry['module']) for entry in stage_info(model)[-STAGES:]]
    if len(stages) < STAGES or not all(_has_convolutions(stage) for stage in stages):
        raise ValueError(
            f'{type(model).__name__} has no convolutions in its last two stages whose features could be dropped: '
            'choose another model, such as a ResNet.'
        )
    return stages


def _has_convolutions(stage: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in stage.modules())


def block_shortcuts(stage: nn.Module) -> Iterator[nn.Module]:
    """The shortcut of each block of a stage; timm's ResNets get an identity where they have no module for it."""
    for part in stage.modules():
        if isinstance(part, (resnet.BasicBlock, resnet.Bottleneck)):
            if part.downsample is None:
                part.downsample = nn.Identity()
            yield part.downsample
        elif isinstance(part, (PyramidBlock, ShakeShakeBlock)):
            yield part.shortcut


def _hook(kind: str, block: int, share: float, prob: Tensor) -> Callable[..., Tensor | None]:
    def drop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        if kind == 'dropblock':
            return output * drop_block_factor(output, prob * share, block)
        return output * (dropout_factor if kind == 'dropout' else spatial_dropout_factor)(output, prob * share)

    return drop
