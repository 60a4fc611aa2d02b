"""Shake-Shake networks for CIFAR: residual blocks of two branches that are mixed at random.

Gastaldi 2017, https://arxiv.org/abs/1705.07485, section 2.1, with a shake per image in the forward and in the backward
pass (S-S-I of Table 1).
"""

from collections import OrderedDict
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from keepaug.models.cifar_network import CifarNetwork, cifar_cfgs, create_cifar_network
from keepaug.models.shaking import ShakeShake

__all__ = ['ShakeShakeNet']

STEM_WIDTH = 16
STAGES = 3


class TwoFlowShortcut(nn.Module):
    """A shortcut that halves height and width: every other place, and their lower right neighbours, side by side."""

    def __init__(self, in_chs: int, out_chs: int):
        """
        Args:
            in_chs: Channels of the input.
            out_chs: Channels of the output, an even number.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(in_chs, out_chs // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_chs)

    def forward(self, x: Tensor) -> Tensor:
        shifted = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        return self.norm(torch.cat([self.conv1(x[:, :, ::2, ::2]), self.conv2(shifted[:, :, ::2, ::2])], dim=1))


class ShakeShakeBlock(nn.Module):
    """Two branches of two convolutions, mixed, beside a shortcut."""

    def __init__(self, in_chs: int, out_chs: int, stride: int = 1):
        """
        Args:
            in_chs: Channels of the input.
            out_chs: Channels of the output.
            stride: 1 or 2.
        """
        super().__init__()
        self.branch1 = _branch(in_chs, out_chs, stride)
        self.branch2 = _branch(in_chs, out_chs, stride)
        self.mix = ShakeShake()
        self.shortcut: nn.Module
        if stride > 1:
            self.shortcut = TwoFlowShortcut(in_chs, out_chs)
        elif in_chs != out_chs:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(in_chs, out_chs, 1, bias=False), norm=nn.BatchNorm2d(out_chs))
            )
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.mix(self.branch1(x), self.branch2(x))


def _branch(in_chs: int, out_chs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            act1=nn.ReLU(),  # not in place: the other branch and the shortcut see the same input
            conv1=nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False),
            norm1=nn.BatchNorm2d(out_chs),
            act2=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(out_chs),
        )
    )


class ShakeShakeNet(CifarNetwork):
    """Three stages of blocks of two shaken branches."""

    def __init__(self, blocks: int = 4, width: int = 96, **kwargs: Any):
        """
        Args:
            blocks: Blocks of each stage; the network has 2 + 6 times as many layers.
            width: Channels of the first stage, twice as many in each further one.
            **kwargs: Classes, channels of the image, pooling and dropout, as in `CifarNetwork`.
        """
        widths = [width * 2**stage for stage in range(STAGES)]
        stages = [
            nn.Sequential(
                ShakeShakeBlock(before, after, stride=2 if stage else 1),
                *(ShakeShakeBlock(after, after) for _ in range(blocks - 1)),
            )
            for stage, (before, after) in enumerate(zip([STEM_WIDTH, *widths], widths))
        ]
        super().__init__(STEM_WIDTH, stages, widths, stem_act=False, norm=nn.ReLU(), **kwargs)


default_cfgs = generate_default_cfgs({**cifar_cfgs('cifar_shake_shake26_2x96d')})


@register_model
def cifar_shake_shake26_2x96d(pretrained: bool = False, **kwargs: Any) -> ShakeShakeNet:
    """Shake-Shake 26 2x96d: 3 stages of 4 blocks of two branches, 96, 192, 384 channels, reductions 1, 2, 4."""
    return create_cifar_network(ShakeShakeNet, 'cifar_shake_shake26_2x96d', pretrained, stages=STAGES, **kwargs)
