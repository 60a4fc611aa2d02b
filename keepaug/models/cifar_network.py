"""What the networks of the papers for 32 px images have in common: their data configuration and their frame.

What makes them CIFAR networks is the stem: one 3x3 convolution of stride 1 and no pooling, so that the first stage
works at the resolution of the image. They accept any input of at least 8x8 pixels. `docs/networks.md` lists them with
the papers they are from.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d, ClassifierHead
from timm.models import build_model_with_cfg, checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from keepaug.private import feature_take_indices

# Over the training images, channel by channel.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)

Network = TypeVar('Network', bound=nn.Module)

# timm's ResNets count on a stem that has already divided height and width by four.
TIMM_STEM_REDUCTION = 4


def cifar_cfgs(name: str, **kwargs: Any) -> dict[str, dict[str, Any]]:
    """Describe a CIFAR network as timm's registry wants it, for CIFAR-10 and, by its tag, CIFAR-100.

    Args:
        name: Name of the model.
        **kwargs: Entries that differ from those of a network of three stages in our frame.

    Returns:
        Configurations by name and tag, for `timm.models.generate_default_cfgs`.
    """
    common = {
        'url': '',
        'input_size': (3, 32, 32),
        'pool_size': (8, 8),
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
        'first_conv': 'stem.conv',
        'classifier': 'head.fc',
        **kwargs,
    }
    return {
        name: dict(common, num_classes=10, mean=CIFAR10_MEAN, std=CIFAR10_STD),
        f'{name}.cifar100': dict(common, num_classes=100, mean=CIFAR100_MEAN, std=CIFAR100_STD),
    }


def to_timm_output_stride(output_stride: int) -> int:
    """Translate a wanted output stride for timm's ResNets, which assume that their stem reduces by four.

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


class CifarNetwork(nn.Module):
    """The frame of a residual CIFAR network: stem, stages, normalisation and head.

    The stem works at the resolution of the image, so does the first stage, and every further stage halves it.
    """

    # The papers put the early head after the first group of blocks, although that stage, at the resolution of the
    # image, is below the reduction of 4 from which a stage qualifies in other models.
    early_exit_stage = 'stages.0'

    def __init__(
        self,
        stem_width: int,
        stages: Sequence[nn.Sequential],
        widths: Sequence[int],
        stem_act: bool = True,
        norm: nn.Module | None = None,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
    ):
        """
        Args:
            stem_width: Channels of the stem.
            stages: The blocks of every stage.
            widths: Channels of every stage's output.
            stem_act: Whether a ReLU follows the stem's normalisation.
            norm: What follows the last stage; nothing if None.
            num_classes: Classes; 0 for none.
            in_chans: Channels of the image.
            global_pool: How the head pools, as timm calls it.
            drop_rate: Dropout before the classifier.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.grad_checkpointing = False
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_chans, stem_width, 3, padding=1, bias=False),
                norm=BatchNormAct2d(stem_width, apply_act=stem_act),
            )
        )
        self.stages = nn.Sequential(*stages)
        self.norm = nn.Identity() if norm is None else norm
        self.feature_info: list[dict[str, Any]] = [dict(num_chs=stem_width, reduction=1, module='stem.norm')]
        self.feature_info += [
            dict(num_chs=width, reduction=2**i, module=f'stages.{i}') for i, width in enumerate(widths)
        ]
        self.num_features = widths[-1]
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.head.num_features
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names by layer, for layer-wise learning rates; stages are layers if `coarse`."""
        return dict(
            stem=r'^stem',
            blocks=r'^stages\.(\d+)' if coarse else [(r'^stages\.(\d+)\.(\d+)', None), (r'^norm', (99999,))],
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what enters a block for the backward pass, which computes the rest again."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one.

        Args:
            num_classes: Classes; 0 for none.
            global_pool: How to pool; as before if None, not at all if empty.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return features with the outputs of stem and stages.

        Args:
            x: Normalised images `(B, C, H, W)`.
            indices: The last n features if a number, all if None, otherwise the features with these indices.
            norm: Whether the last stage's output is given behind the normalisation.
            stop_early: Whether to stop after the last feature that is wanted.
            output_fmt: NCHW.
            intermediates_only: Whether to leave out the final features.

        Returns:
            The final features `(B, C, H/r, W/r)` and the list of intermediate ones, or the list alone.

        Raises:
            ValueError: If `output_fmt` is not NCHW.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f'{output_fmt = } is not possible for {type(self).__name__}: use NCHW.')
        take, last = feature_take_indices(len(self.feature_info), indices)
        x = self.stem(x)
        intermediates = [x] if 0 in take else []
        stages = self.stages[:last] if stop_early else self.stages
        for number, stage in enumerate(stages, start=1):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            if number in take:
                intermediates.append(self.norm(x) if norm and number == len(self.stages) else x)
        if intermediates_only:
            return intermediates
        return self.norm(x), intermediates

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
        take, last = feature_take_indices(len(self.feature_info), indices)
        is_cut = last < len(self.stages)
        self.stages = self.stages[:last]
        if is_cut:
            self.num_features = self.head.in_features = self.feature_info[last]['num_chs']
        if is_cut or prune_norm:
            self.norm = nn.Identity()
        if is_cut or prune_head:
            self.reset_classifier(0, '')
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Final features `(B, C, H/r, W/r)` of images `(B, C, H, W)`."""
        x = self.stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.stages, x, flatten=True)
        else:
            x = self.stages(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `(B, K)` of final features, or what the classifier would see."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, K)` of images `(B, C, H, W)`."""
        return self.forward_head(self.forward_features(x))


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: fewer places where the block reduces, zeros for the channels it adds.

    Deep Residual Learning, section 4.2 (option A), which takes every other place; Deep Pyramidal Residual Networks
    averages four.
    """

    def __init__(self, stride: int, extra: int, average: bool = False):
        """
        Args:
            stride: 1 or 2.
            extra: Channels to add, behind the others.
            average: Whether to average the places that become one.
        """
        super().__init__()
        self.stride = stride
        self.extra = extra
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            if self.average:
                x = F.avg_pool2d(x, self.stride, ceil_mode=True)
            else:
                x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))


def create_cifar_network(network: type[Network], variant: str, pretrained: bool, stages: int, **kwargs: Any) -> Network:
    """Build a registered network whose features are those of the stem and of `stages` stages."""
    feature_cfg = dict(out_indices=tuple(range(stages + 1)), flatten_sequential=True)
    return build_model_with_cfg(network, variant, pretrained, feature_cfg=feature_cfg, **kwargs)
