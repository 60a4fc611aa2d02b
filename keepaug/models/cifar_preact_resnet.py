"""Pre-activation ResNets for CIFAR, among them the wide ones."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import generate_default_cfgs, register_model
from timm.models.resnetv2 import ResNetV2
from torch import nn

from keepaug.models.cifar_network import cifar_cfgs, create_cifar_network, shrink_reductions, to_timm_output_stride
from keepaug.private import feature_take_indices

__all__ = ['CifarPreActResNet']


class CifarPreActResNet(ResNetV2):
    """Pre-activation ResNet of basic blocks with a CIFAR stem, narrow or wide.

    As Identity Mappings prescribes, the first activation comes right after the stem's convolution, before the first
    block splits into shortcut and residual, and the last one after the last addition. In the wide network, whose first
    shortcut is a projection of the activated input anyway, that is the same function as a block like all others.
    """

    # As in CifarNetwork: where the papers have the early head, below a reduction of 4.
    early_exit_stage = 'stages.0'

    def __init__(
        self,
        layers: Sequence[int],
        channels: Sequence[int],
        stem_chs: int,
        in_chans: int = 3,
        output_stride: int = 32,
        block_drop_rate: float = 0.0,
        norm_layer: Callable[..., nn.Module] = BatchNormAct2d,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            layers: Blocks of each stage.
            channels: Width of each stage, as many as `layers`.
            stem_chs: Width of the stem.
            in_chans: Channels of the image.
            output_stride: The largest reduction, in pixels of the image: 2, 4 or 8; more asks for nothing.
            block_drop_rate: Dropout between the two convolutions of every block (Wide Residual Networks, section 2.4;
                0.3 in its CIFAR tables that use it). `drop_rate` stays what it is in all of timm, dropout before the
                classifier.
            norm_layer: Normalisation with its activation, a layer of `timm.layers`.
            device: Device of the parameters.
            dtype: Type of the parameters.
            **kwargs: What else `timm.models.resnetv2.ResNetV2` takes, but nothing about the stem.

        Raises:
            ValueError: If `output_stride` is none of the numbers above, or if `block_drop_rate` is given together with
                a `norm_layer` that has no place for dropout.
        """
        super().__init__(
            list(layers),
            tuple(channels),
            in_chans=in_chans,
            output_stride=to_timm_output_stride(output_stride),
            stem_chs=stem_chs,
            stem_type='',
            basic=True,
            bottle_ratio=1.0,
            conv_layer=create_conv2d,
            norm_layer=norm_layer,
            device=device,
            dtype=dtype,
            **kwargs,
        )
        conv = create_conv2d(in_chans, stem_chs, 3, device=device, dtype=dtype)
        nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
        first = self.stages[0].blocks[0]
        self.stem = nn.Sequential(OrderedDict(conv=conv, norm=first.norm1))
        first.norm1 = nn.Identity()
        self.stem_feat_idx = 1
        self.feature_info = shrink_reductions(self.feature_info, 'stem.norm')
        if block_drop_rate:
            self._set_block_dropout(block_drop_rate)

    def _set_block_dropout(self, rate: float) -> None:
        for stage in self.stages:
            for block in stage.blocks:
                if not hasattr(block.norm2, 'drop'):
                    raise ValueError(
                        f'block_drop_rate = {rate} needs a norm_layer with a place for dropout, such as '
                        f'BatchNormAct2d, but {type(block.norm2).__name__} has none.'
                    )
                # The paper drops after the ReLU. Dropout scales by a number that is never negative, so that in front
                # of the ReLU, where timm's layer has the place for it, it gives the same values.
                block.norm2.drop = nn.Dropout(rate)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return features with the outputs of stem and stages, as `timm.models.resnetv2.ResNetV2` does.

        Args:
            x: Normalised images `(B, C, H, W)`.
            indices: The last n features if a number, all if None, otherwise the features with these indices.
            *args: As in timm: `norm`, `stop_early`, `output_fmt`, `intermediates_only`.
            **kwargs: The same by name.

        Returns:
            The final features `(B, C, H/r, W/r)` and the list of intermediate ones, or the list alone.
        """
        # timm's method counts on a stem and four stages; the wide network has three.
        indices, _ = feature_take_indices(len(self.feature_info), indices)
        return super().forward_intermediates(x, indices, *args, **kwargs)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the layers that the features asked for do not need.

        Args:
            indices: The last n features if a number, otherwise the features with these indices.
            prune_norm: Drop the final normalisation too.
            prune_head: Drop the classifier.

        Returns:
            The indices that are kept.
        """
        indices, _ = feature_take_indices(len(self.feature_info), indices)
        return super().prune_intermediate_layers(indices, prune_norm, prune_head)


default_cfgs = generate_default_cfgs(
    {
        **cifar_cfgs('cifar_preact_resnet18', pool_size=(4, 4)),
        **cifar_cfgs('cifar_wide_resnet28_2'),
        **cifar_cfgs('cifar_wide_resnet28_10'),
    }
)


def _create_wide(variant: str, pretrained: bool, **kwargs: Any) -> CifarPreActResNet:
    return create_cifar_network(CifarPreActResNet, variant, pretrained, stages=3, **kwargs)


@register_model
def cifar_preact_resnet18(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """Pre-activation ResNet-18 for CIFAR: 3x3 stem, stages of 2 blocks, 64 to 512 channels, reductions 1, 2, 4, 8."""
    model_args = dict(layers=(2, 2, 2, 2), channels=(64, 128, 256, 512), stem_chs=64)
    return create_cifar_network(
        CifarPreActResNet, 'cifar_preact_resnet18', pretrained, stages=4, **dict(model_args, **kwargs)
    )


@register_model
def cifar_wide_resnet28_2(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """WRN-28-2: 3x3 stem of 16 channels, 3 stages of 4 blocks with 32, 64, 128 channels, reductions 1, 2, 4."""
    model_args = dict(layers=(4, 4, 4), channels=(32, 64, 128), stem_chs=16)
    return _create_wide('cifar_wide_resnet28_2', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_wide_resnet28_10(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """WRN-28-10: 3x3 stem of 16 channels, 3 stages of 4 blocks with 160, 320, 640 channels, reductions 1, 2, 4."""
    model_args = dict(layers=(4, 4, 4), channels=(160, 320, 640), stem_chs=16)
    return _create_wide('cifar_wide_resnet28_10', pretrained, **dict(model_args, **kwargs))
