"""ResNets for CIFAR: the wide form that later papers use, and the deep narrow one of the paper itself."""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, make_blocks
from torch import nn

from keepaug.models.cifar_network import (
    CifarNetwork,
    PaddedShortcut,
    cifar_cfgs,
    create_cifar_network,
    shrink_reductions,
    to_timm_output_stride,
)

__all__ = ['CifarDeepResNet', 'CifarResNet']


class CifarResNet(ResNet):
    """ResNet with a CIFAR stem.

    Deep Residual Learning, section 4.2, with the widths of the ImageNet ResNet-18, as all later papers run it. The
    shortcuts that change shape are 1x1 convolutions (option B of the paper).
    """

    # As in CifarNetwork: where the papers have the early head, below a reduction of 4.
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
            block,  # type: ignore[arg-type]  # timm's own signature asks for an instance
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
        width = self.conv1.out_channels
        conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False, device=device, dtype=dtype)
        nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
        self.add_module('conv1', conv)
        self.add_module('maxpool', nn.Identity())
        self.feature_info = shrink_reductions(self.feature_info, 'act1')


class CifarDeepResNet(CifarNetwork):
    """The deep and narrow ResNet that Deep Residual Learning has for CIFAR (section 4.2): three stages, 16 channels on.

    Shortcuts that change shape have no parameters (option A of the paper). This also holds for bottleneck blocks: 110
    layers then have the 1.1 million parameters of CutMix's Table 6; with 1x1 convolutions (option B) they would have
    1.2.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: tuple[int, int, int],
        channels: tuple[int, int, int] = (16, 32, 64),
        drop_path_rate: float = 0.0,
        drop_block_rate: float = 0.0,
        **kwargs: Any,
    ):
        """
        Args:
            block: The residual block, a class of `timm.models.resnet`.
            layers: Blocks of each stage.
            channels: Width of each stage, before the expansion of bottleneck blocks; the first is the stem's too.
            drop_path_rate: Stochastic depth of the last block, growing linearly from the first.
            drop_block_rate: DropBlock in the last stage, where timm's ResNets have it.
            **kwargs: Classes, channels of the image, pooling and dropout, as in `CifarNetwork`.
        """
        named, feature_info = make_blocks(
            (block,) * len(layers),
            channels,
            layers,
            inplanes=channels[0],
            drop_path_rate=drop_path_rate,
            drop_block_rate=drop_block_rate,
            act_layer=nn.ReLU,
            norm_layer=nn.BatchNorm2d,
        )
        stages: list[Any] = [stage for _, stage in named]
        widths = [info['num_chs'] for info in feature_info]
        for number, (stage, before, after) in enumerate(zip(stages, [channels[0], *widths], widths)):
            if stage[0].downsample is not None:
                stage[0].downsample = PaddedShortcut(stride=2 if number else 1, extra=after - before)
        super().__init__(channels[0], stages, widths, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        **cifar_cfgs('cifar_resnet18', first_conv='conv1', classifier='fc', pool_size=(4, 4)),
        **cifar_cfgs('cifar_resnet20'),
        **cifar_cfgs('cifar_resnet56'),
        **cifar_cfgs('cifar_resnet110'),
        **cifar_cfgs('cifar_resnet110_bottleneck'),
    }
)


def _create_deep(variant: str, pretrained: bool, **kwargs: Any) -> CifarDeepResNet:
    return create_cifar_network(CifarDeepResNet, variant, pretrained, stages=3, **kwargs)


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-18 for CIFAR: 3x3 stem, stages of 2 basic blocks, 64 to 512 channels, reductions 1, 2, 4, 8."""
    model_args = dict(block=BasicBlock, layers=(2, 2, 2, 2))
    return build_model_with_cfg(CifarResNet, 'cifar_resnet18', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarDeepResNet:
    """ResNet-20 for CIFAR: 3x3 stem, stages of 3 basic blocks with 16, 32, 64 channels, reductions 1, 2, 4."""
    model_args = dict(block=BasicBlock, layers=(3, 3, 3))
    return _create_deep('cifar_resnet20', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarDeepResNet:
    """ResNet-56 for CIFAR: 3x3 stem, stages of 9 basic blocks with 16, 32, 64 channels, reductions 1, 2, 4."""
    model_args = dict(block=BasicBlock, layers=(9, 9, 9))
    return _create_deep('cifar_resnet56', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarDeepResNet:
    """ResNet-110 for CIFAR: 3x3 stem, stages of 18 basic blocks with 16, 32, 64 channels, reductions 1, 2, 4."""
    model_args = dict(block=BasicBlock, layers=(18, 18, 18))
    return _create_deep('cifar_resnet110', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_resnet110_bottleneck(pretrained: bool = False, **kwargs: Any) -> CifarDeepResNet:
    """CutMix's ResNet-110: stages of 12 bottleneck blocks with 64, 128, 256 channels, reductions 1, 2, 4."""
    model_args = dict(block=Bottleneck, layers=(12, 12, 12))
    return _create_deep('cifar_resnet110_bottleneck', pretrained, **dict(model_args, **kwargs))
