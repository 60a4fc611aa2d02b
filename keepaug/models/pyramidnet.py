"""PyramidNets for CIFAR: every block is a little wider than the one before.

Deep Pyramidal Residual Networks, https://arxiv.org/abs/1610.02915, with bottleneck blocks as CutMix and ShakeDrop use
them.
"""

from collections import OrderedDict
from fractions import Fraction
from typing import Any

import torch
from timm.layers import BatchNormAct2d, DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from keepaug.models.cifar_network import CifarNetwork, PaddedShortcut, cifar_cfgs, create_cifar_network
from keepaug.models.shaking import ShakeDrop

__all__ = ['PyramidNet']

STEM_WIDTH = 16
STAGES = 3
LAYERS_PER_BLOCK = 3
EXPANSION = 4


def pyramid_widths(blocks: int, alpha: int, nearest: bool = True) -> list[int]:
    """Widths of all blocks, before their expansion: they grow by equal steps to 16 + alpha (Eq. 2 of the paper).

    Args:
        blocks: Number of blocks.
        alpha: Channels that the last block has more than the stem.
        nearest: Whether a width between two whole numbers becomes the nearer one, else the lower one. The paper's
            equation and its parameter counts are of the lower one, those of CutMix (Tables 5 and 6) of the nearer.
    """
    exact = [STEM_WIDTH + Fraction(alpha * number, blocks) for number in range(1, blocks + 1)]
    return [round(width) if nearest else int(width) for width in exact]


class PyramidBlock(nn.Module):
    """A bottleneck block without the first ReLU and with a last normalisation (section 3.3 of the paper)."""

    def __init__(self, in_chs: int, width: int, stride: int = 1, branch_end: nn.Module | None = None):
        """
        Args:
            in_chs: Channels of the input.
            width: Channels between; the output has four times as many, and at least those of the input.
            stride: 1 or 2.
            branch_end: What the residual branch goes through before it is added: stochastic depth or ShakeDrop.
        """
        super().__init__()
        out_chs = EXPANSION * width
        self.branch = nn.Sequential(
            OrderedDict(
                norm1=BatchNormAct2d(in_chs, apply_act=False),
                conv1=nn.Conv2d(in_chs, width, 1, bias=False),
                norm2=BatchNormAct2d(width),
                conv2=nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
                norm3=BatchNormAct2d(width),
                conv3=nn.Conv2d(width, out_chs, 1, bias=False),
                norm4=BatchNormAct2d(out_chs, apply_act=False),
            )
        )
        self.branch_end = nn.Identity() if branch_end is None else branch_end
        self.shortcut = PaddedShortcut(stride, extra=out_chs - in_chs, average=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch_end(self.branch(x)) + self.shortcut(x)


class PyramidNet(CifarNetwork):
    """PyramidNet of bottleneck blocks."""

    def __init__(
        self,
        depth: int,
        alpha: int,
        nearest: bool = True,
        shake_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ):
        """
        Args:
            depth: Layers: 2 more than a multiple of 9.
            alpha: Channels that the last block has more than the stem, before the expansion.
            nearest: Whether widths are rounded to the nearest whole number, else down.
            shake_drop_rate: Probability that ShakeDrop shakes the last block. That of block l of L is l / L of it
                (the paper's linear decay rule, which shakes the first block too).
            drop_path_rate: Stochastic depth of the last block, growing linearly from none at the first.
            **kwargs: Classes, channels of the image, pooling and dropout, as in `CifarNetwork`.

        Raises:
            ValueError: If there is no such depth, or the branch is to be both dropped and shaken.
        """
        blocks, rest = divmod(depth - 2, STAGES * LAYERS_PER_BLOCK)
        if rest or blocks < 1:
            raise ValueError(f'{depth = } is not possible for a PyramidNet: use 2 more than a multiple of 9.')
        if shake_drop_rate and drop_path_rate:
            raise ValueError(f'{shake_drop_rate = } and {drop_path_rate = } exclude each other: set one of them to 0.')
        widths = pyramid_widths(STAGES * blocks, alpha, nearest)
        if shake_drop_rate:
            ends = [ShakeDrop(shake_drop_rate * number / len(widths)) for number in range(1, len(widths) + 1)]
        else:
            rates = torch.linspace(0, drop_path_rate, len(widths), device='cpu').tolist()
            ends = [DropPath(rate) if rate else None for rate in rates]
        before = [STEM_WIDTH, *(EXPANSION * width for width in widths)]
        layers = [
            PyramidBlock(before[i], width, stride=2 if i and i % blocks == 0 else 1, branch_end=ends[i])
            for i, width in enumerate(widths)
        ]
        super().__init__(
            STEM_WIDTH,
            [nn.Sequential(*layers[start : start + blocks]) for start in range(0, len(layers), blocks)],
            widths=before[blocks::blocks],
            stem_act=False,
            norm=BatchNormAct2d(before[-1]),
            **kwargs,
        )


default_cfgs = generate_default_cfgs(
    {
        **cifar_cfgs('cifar_pyramidnet110_a64'),
        **cifar_cfgs('cifar_pyramidnet200_a240'),
        **cifar_cfgs('cifar_pyramidnet272_a200'),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> PyramidNet:
    return create_cifar_network(PyramidNet, variant, pretrained, stages=STAGES, **kwargs)


@register_model
def cifar_pyramidnet110_a64(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """CutMix's PyramidNet-110: 36 bottleneck blocks, up to 320 channels, reductions 1, 2, 4."""
    return _create('cifar_pyramidnet110_a64', pretrained, **dict(dict(depth=110, alpha=64), **kwargs))


@register_model
def cifar_pyramidnet200_a240(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """CutMix's PyramidNet-200: 66 bottleneck blocks, up to 1024 channels, reductions 1, 2, 4."""
    return _create('cifar_pyramidnet200_a240', pretrained, **dict(dict(depth=200, alpha=240), **kwargs))


@register_model
def cifar_pyramidnet272_a200(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """PyramidNet-272 with ShakeDrop: 90 bottleneck blocks, up to 864 channels, reductions 1, 2, 4."""
    model_args = dict(depth=272, alpha=200, nearest=False, shake_drop_rate=0.5)
    return _create('cifar_pyramidnet272_a200', pretrained, **dict(model_args, **kwargs))
