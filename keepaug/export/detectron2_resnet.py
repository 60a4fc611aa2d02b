"""Detectron2's ResNet stated again in plain torch: what an exported file will compute there, from the file alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from keepaug.export.resnet_layout import EPSILON, GROUPS_OF_NORM

NORMS = {
    'FrozenBN': lambda channels: FrozenBatchNorm2d(channels, eps=EPSILON),
    'GN': lambda channels: nn.GroupNorm(GROUPS_OF_NORM, channels, eps=EPSILON),
}
# Detectron2's own table: blocks of the four stages.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ConvNorm(nn.Conv2d):
    """A convolution without bias that owns its norm."""

    def __init__(self, channels: int, out_channels: int, kernel: int, norm: str, stride: int = 1, groups: int = 1):
        super().__init__(channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = NORMS[norm](out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Stem(nn.Module):
    def __init__(self, channels: int, out_channels: int, norm: str):
        super().__init__()
        self.conv1 = ConvNorm(channels, out_channels, 7, norm, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(x).relu(), 3, stride=2, padding=1)


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3 and 1x1 with `middle` channels."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        norm: str,
        stride: int,
        middle: int | None,
        groups: int,
        stride_in_1x1: bool,
    ):
        super().__init__()
        if channels != out_channels:
            self.shortcut = ConvNorm(channels, out_channels, 1, norm, stride)
        if middle is None:
            self.conv1 = ConvNorm(channels, out_channels, 3, norm, stride)
            self.conv2 = ConvNorm(out_channels, out_channels, 3, norm)
        else:
            strides = (stride, 1) if stride_in_1x1 else (1, stride)
            self.conv1 = ConvNorm(channels, middle, 1, norm, strides[0])
            self.conv2 = ConvNorm(middle, middle, 3, norm, strides[1], groups)
            self.conv3 = ConvNorm(middle, out_channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x).relu())
        if hasattr(self, 'conv3'):
            y = self.conv3(y.relu())
        return (y + (self.shortcut(x) if hasattr(self, 'shortcut') else x)).relu()


class Detectron2ResNet(nn.Module):
    """The network that Detectron2 builds from a configuration, with the weights of a file.

    Args:
        config: Configuration, as nested dictionaries.
        arrays: Entries `model` of the weights file; each must be used, and each weight be among them.

    Raises:
        RuntimeError: Names or shapes of the arrays are not those of the configuration.
    """

    def __init__(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
        super().__init__()
        resnet, norm = config['MODEL']['RESNETS'], config['MODEL']['RESNETS']['NORM']
        mean, std = (torch.tensor(config['MODEL'][name]).view(-1, 1, 1) for name in ('PIXEL_MEAN', 'PIXEL_STD'))
        self.normalise = lambda images: (images - mean) / std
        self.stem = Stem(len(mean), resnet['STEM_OUT_CHANNELS'], norm)
        channels, out_channels = resnet['STEM_OUT_CHANNELS'], resnet['RES2_OUT_CHANNELS']
        middle = resnet['NUM_GROUPS'] * resnet['WIDTH_PER_GROUP'] if resnet['DEPTH'] >= 50 else None
        for number, blocks in enumerate(BLOCKS[resnet['DEPTH']]):
            stage = []
            for index in range(blocks):
                stage.append(
                    Block(
                        channels,
                        out_channels << number,
                        norm,
                        stride=2 if number and not index else 1,
                        middle=middle and middle << number,
                        groups=resnet['NUM_GROUPS'],
                        stride_in_1x1=resnet['STRIDE_IN_1X1'],
                    )
                )
                channels = out_channels << number
            self.add_module(f'res{number + 2}', nn.Sequential(*stage))
        self.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        self.eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features `res2` to `res5` of images (B, C, H, W) in 0..255."""
        x = self.stem(self.normalise(images))
        features = {}
        for name in ('res2', 'res3', 'res4', 'res5'):
            x = features[name] = getattr(self, name)(x)
        return features
