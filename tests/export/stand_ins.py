"""The few classes of Detectron2 that its backbones touch, restated from its documented interface.

`installed()` puts them where `import detectron2` finds them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import torch.nn.functional as F
from torch import nn


class CfgNode(dict):
    """A configuration that refuses keys it does not know."""

    def __init__(self, init_dict: dict | None = None, new_allowed: bool = False):
        super().__init__(
            {
                key: CfgNode(value) if isinstance(value, dict) and not isinstance(value, CfgNode) else value
                for key, value in (init_dict or {}).items()
            }
        )
        object.__setattr__(self, 'new_allowed', new_allowed)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def merge(self, other: dict) -> None:
        for key, value in other.items():
            if key not in self and not self.new_allowed:
                raise KeyError(f'Non-existent config key: {key}')
            if isinstance(self.get(key), CfgNode):
                self[key].merge(value)
            else:
                self[key] = value


def get_cfg() -> CfgNode:
    """The defaults of the keys in use."""
    return CfgNode(
        dict(
            VERSION=2,
            INPUT=dict(FORMAT='BGR'),
            MODEL=dict(
                WEIGHTS='',
                PIXEL_MEAN=[103.53, 116.28, 123.675],
                PIXEL_STD=[1.0, 1.0, 1.0],
                BACKBONE=dict(NAME='build_resnet_backbone', FREEZE_AT=2),
                FPN=dict(IN_FEATURES=['res2', 'res3', 'res4', 'res5'], OUT_CHANNELS=16, NORM='', FUSE_TYPE='sum'),
                RESNETS=dict(
                    DEPTH=50,
                    OUT_FEATURES=['res4'],
                    NUM_GROUPS=1,
                    NORM='FrozenBN',
                    WIDTH_PER_GROUP=64,
                    STRIDE_IN_1X1=True,
                    RES5_DILATION=1,
                    RES2_OUT_CHANNELS=256,
                    STEM_OUT_CHANNELS=64,
                ),
            ),
        )
    )


@dataclass
class ShapeSpec:
    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Registry(dict):
    def register(self):
        def add(function):
            self[function.__name__] = function
            return function

        return add


class Backbone(nn.Module):
    @property
    def size_divisibility(self) -> int:
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


class LastLevelMaxPool(nn.Module):
    num_levels, in_feature = 1, 'p5'

    def forward(self, x):
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    num_levels = 2

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = 'res5'):
        super().__init__()
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)

    def forward(self, c5):
        p6 = self.p6(c5)
        return [p6, self.p7(p6.relu())]


class FPN(Backbone):
    def __init__(self, bottom_up, in_features, out_channels, norm='', top_block=None, fuse_type='sum'):
        super().__init__()
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        assert all(after == 2 * before for before, after in zip(strides, strides[1:]))
        self.bottom_up, self.in_features, self.top_block = bottom_up, in_features, top_block
        self.lateral = nn.ModuleList(nn.Conv2d(shapes[name].channels, out_channels, 1) for name in in_features)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_features)
        self.first = strides[0].bit_length() - 1

    def forward(self, x):
        features = self.bottom_up(x)
        results, previous = [], 0
        for name, lateral, output in reversed(list(zip(self.in_features, self.lateral, self.output))):
            previous = lateral(features[name]) + previous
            results.insert(0, output(previous))
            previous = F.interpolate(previous, scale_factor=2.0, mode='nearest')
        named = {f'p{self.first + index}': result for index, result in enumerate(results)}
        source = features.get(self.top_block.in_feature, named.get(self.top_block.in_feature))
        return [*named.values(), *self.top_block(source)]


@contextmanager
def installed() -> Iterator[Registry]:
    """Makes them importable as detectron2, and gives the registry of backbones."""
    registry = Registry()
    contents = {
        'detectron2': {},
        'detectron2.config': dict(CfgNode=CfgNode),
        'detectron2.layers': dict(ShapeSpec=ShapeSpec),
        'detectron2.modeling': dict(BACKBONE_REGISTRY=registry, FPN=FPN, Backbone=Backbone),
        'detectron2.modeling.backbone': {},
        'detectron2.modeling.backbone.fpn': dict(LastLevelMaxPool=LastLevelMaxPool, LastLevelP6P7=LastLevelP6P7),
    }
    modules = {}
    for name, content in contents.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(content)
    with mock.patch.dict(sys.modules, modules):
        yield registry
