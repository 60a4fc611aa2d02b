"""The CIFAR networks of the papers, registered with timm.

timm has no network for 32 px images. These three are what KeepAugment, CutMix, the refinement paper and most work on
augmentation report on CIFAR, built from timm's own blocks, so that everything timm does with a ResNet works with them:

| model | paper | parameters, 10 classes |
|---|---|---|
| `cifar_resnet18` | Deep Residual Learning, https://arxiv.org/abs/1512.03385 | 11,173,962 |
| `cifar_preact_resnet18` | Identity Mappings, https://arxiv.org/abs/1603.05027 | 11,172,170 |
| `cifar_wide_resnet28_10` | Wide ResNets, https://arxiv.org/abs/1605.07146 | 36,479,194 |

What makes them CIFAR networks is the stem: one 3x3 convolution of stride 1 and no pooling, so that the first stage
works at the resolution of the image. Any input of at least 8x8 pixels goes in.
"""
from collections import OrderedDict
from typing import Any

import torch
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, ResNet
from timm.models.resnetv2 import ResNetV2
from torch import nn

__all__ = ['CifarResNet', 'CifarPreActResNet']

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

# timm's ResNets count on a stem that has already divided height and width by four.
TIMM_STEM_REDUCTION = 4


def to_timm_output_stride(output_stride: int) -> int:
    """Translate a wanted output stride for timm's ResNets, which believe that their stem reduces by four.

    Args:
        output_stride: The largest reduction wanted of the network, in pixels of the image. These networks reduce by 8
            at most; 16 and 32 therefore ask for nothing.

    Returns:
        The stride to hand to timm's class so that the stages stop reducing, and dilate, at `output_stride`.

    Raises:
        ValueError: If `output_stride` is not 2, 4, 8, 16 or 32.
    """
    if output_stride not in (2, 4, 8, 16, 32):
        raise ValueError(f'{output_stride = } is not possible for a CIFAR network: use 2, 4 or 8.')
    return TIMM_STEM_REDUCTION * min(output_stride, 8)


def shrink_reductions(feature_info: list[dict[str, Any]], stem_module: str) -> list[dict[str, Any]]:
    """Correct timm's `feature_info` for a stem that does not reduce.

    Args:
        feature_info: The entries of a timm ResNet, stem first.
        stem_module: Name of the module whose output is the stem's feature.

    Returns:
        New entries: the stem at reduction 1, every stage at a quarter of what timm noted.
    """
    stem, *stages = feature_info
    return [
        dict(stem, reduction=1, module=stem_module),
        *(dict(stage, reduction=stage['reduction'] // TIMM_STEM_REDUCTION) for stage in stages),
    ]


class CifarResNet(ResNet):
    """ResNet with a CIFAR stem.

    Deep Residual Learning, section 4.2, with the widths of the ImageNet ResNet-18, as all later papers run it. The
    shortcuts that change shape are 1x1 convolutions (option B of the paper).
    """

    # The papers put the early head after the first group of blocks, although that stage, at the resolution of the
    # image, is below the reduction of 4 from which a stage qualifies in other models.
    early_exit_stage = 'layer1'

    def __init__(
            self,
            block: type[nn.Module],
            layers: tuple[int, ...],
            in_chans: int = 3,
            output_stride: int = 32,
            zero_init_last: bool = False,
            device: torch.device | None = None,
            dtype: torch.dtype | None = None,
            **kwargs: Any,
    ):
        """
        Args:
            block: The residual block, a class of `timm.models.resnet`.
            layers: Blocks of each of the four stages.
            in_chans: Channels of the image.
            output_stride: The largest reduction, in pixels of the image: 2, 4 or 8; more asks for nothing.
            zero_init_last: Start every residual branch at zero. timm's ResNets do; the published network does not.
            device: Device of the parameters.
            dtype: Type of the parameters.
            **kwargs: What else `timm.models.resnet.ResNet` takes, but nothing about the stem.

        Raises:
            ValueError: If `output_stride` is none of the numbers above.
        """
        super().__init__(
            block,
            layers,
            in_chans=in_chans,
            output_stride=to_timm_output_stride(output_stride),
            stem_type='',
            replace_stem_pool=False,
            zero_init_last=zero_init_last,
            device=device,
            dtype=dtype,
            **kwargs,
        )
        width = self.feature_info[0]['num_chs']
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False, device=device, dtype=dtype)
        nn.init.kaiming_normal_(self.conv1.weight, mode='fan_out', nonlinearity='relu')
        self.maxpool = nn.Identity()
        self.feature_info = shrink_reductions(self.feature_info, 'act1')


class CifarPreActResNet(ResNetV2):
    """Pre-activation ResNet of basic blocks with a CIFAR stem, narrow or wide.

    As Identity Mappings prescribes, the first activation comes right after the stem's convolution, before the first
    block splits into shortcut and residual, and the last one after the last addition. In the wide network, whose first
    shortcut is a projection of the activated input anyway, that is the same function as a block like all others.
    """

    # As in CifarResNet: where the papers have the early head, below a reduction of 4.
    early_exit_stage = 'stages.0'

    def __init__(
            self,
            layers: tuple[int, ...],
            channels: tuple[int, ...],
            stem_chs: int,
            in_chans: int = 3,
            output_stride: int = 32,
            block_drop_rate: float = 0.,
            norm_layer: str | type[nn.Module] = BatchNormAct2d,
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
            layers,
            channels,
            in_chans=in_chans,
            output_stride=to_timm_output_stride(output_stride),
            stem_chs=stem_chs,
            stem_type='',
            basic=True,
            bottle_ratio=1.,
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
                        f'BatchNormAct2d; {type(block.norm2).__name__} has none.'
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


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """Describe a CIFAR network as timm's registry wants it; `kwargs` are the entries that differ."""
    return {
        'url': '',
        'num_classes': 10,
        'input_size': (3, 32, 32),
        'pool_size': (4, 4),
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
        'mean': CIFAR10_MEAN,
        'std': CIFAR10_STD,
        **kwargs,
    }


default_cfgs = generate_default_cfgs({
    'cifar_resnet18': _cfg(first_conv='conv1', classifier='fc'),
    'cifar_preact_resnet18': _cfg(first_conv='stem.conv', classifier='head.fc'),
    'cifar_wide_resnet28_10': _cfg(first_conv='stem.conv', classifier='head.fc', pool_size=(8, 8)),
})


def _create_preact(variant: str, pretrained: bool, num_stages: int, **kwargs: Any) -> CifarPreActResNet:
    """Build a pre-activation network whose features are the stem's and those of `num_stages` stages."""
    feature_cfg = dict(out_indices=tuple(range(num_stages + 1)), flatten_sequential=True)
    return build_model_with_cfg(CifarPreActResNet, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-18 for CIFAR: 3x3 stem, stages of 2 basic blocks, 64 to 512 channels, reductions 1, 2, 4, 8."""
    model_args = dict(block=BasicBlock, layers=(2, 2, 2, 2))
    return build_model_with_cfg(CifarResNet, 'cifar_resnet18', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_preact_resnet18(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """Pre-activation ResNet-18 for CIFAR: 3x3 stem, stages of 2 blocks, 64 to 512 channels, reductions 1, 2, 4, 8."""
    model_args = dict(layers=(2, 2, 2, 2), channels=(64, 128, 256, 512), stem_chs=64)
    return _create_preact('cifar_preact_resnet18', pretrained, num_stages=4, **dict(model_args, **kwargs))


@register_model
def cifar_wide_resnet28_10(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """WRN-28-10: 3x3 stem of 16 channels, 3 stages of 4 blocks with 160, 320, 640 channels, reductions 1, 2, 4."""
    model_args = dict(layers=(4, 4, 4), channels=(160, 320, 640), stem_chs=16)
    return _create_preact('cifar_wide_resnet28_10', pretrained, num_stages=3, **dict(model_args, **kwargs))
