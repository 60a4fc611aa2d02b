"""Whether a model is the plain ResNet that other libraries know by a few numbers, decided from the built model.

Tensors alone cannot tell: an anti-aliased, dilated or differently activated ResNet has the same names and shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

# The epsilon of batch norm that Detectron2 and torchvision take for granted.
EPSILON = 1e-5
GROUPS_OF_NORM = 32

# Blocks of the four stages of each depth.
DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
STRIDES = (1, 2, 2, 2)


@dataclass(frozen=True)
class ResNetLayout:
    """A ResNet with a 7x7 stem, a max-pool, and post-activation blocks that stride in their 3x3 convolution.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        groups: Groups of the 3x3 convolutions.
        width: Channels of each group in the first stage's 3x3 convolutions; they double from stage to stage.
        stem_channels: Channels of the stem.
        out_channels: Channels of the first stage's output; they double likewise.
        norm: 'BN' or 'GN' (of 32 groups).
    """

    depth: int
    groups: int
    width: int
    stem_channels: int
    out_channels: int
    norm: str


def read_layout(model: nn.Module) -> ResNetLayout:
    """The numbers of a plain ResNet.

    Raises:
        ValueError: The model is something else; the message is what is different, to stand inside a sentence.
    """
    for differs, what in _differences(model):
        if differs:
            raise ValueError(what)
    first = model.layer1[0]
    stages = _stages(model)
    return ResNetLayout(
        depth=next(depth for depth, known in DEPTHS.items() if known == stages),
        groups=first.conv2.groups,
        width=first.conv2.out_channels // first.conv2.groups,
        stem_channels=model.conv1.out_channels,
        out_channels=_last_conv(first).out_channels,
        norm='GN' if isinstance(model.bn1, nn.GroupNorm) else 'BN',
    )


def backbone_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics without the classifier and without counters, for norms of epsilon 1e-5.

    Where the model's epsilon differs, the difference goes into the variance, which is exact:
    (var + (eps - 1e-5)) + 1e-5 = var + eps.
    """
    weights = {
        name: tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(('conv1.', 'bn1.', 'layer')) and not name.endswith('num_batches_tracked')
    }
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.eps != EPSILON:
            variance = weights[f'{name}.running_var']
            weights[f'{name}.running_var'] = (variance.double() + (module.eps - EPSILON)).to(variance.dtype)
    return weights


def _differences(model: nn.Module) -> Iterator[tuple[bool, str]]:
    """Rows in an order in which each may rely on those before; the first that holds is told."""
    kind = type(model).__name__
    yield (
        not isinstance(model, ResNet),
        ('it is pre-activated' if kind == 'ResNetV2' else f'its architecture is {kind}, not a post-activation ResNet'),
    )
    stem = model.conv1
    yield isinstance(stem, nn.Sequential), 'its stem is deep (three 3x3 convolutions)'
    yield (
        (stem.kernel_size, stem.stride) != ((7, 7), (2, 2)),
        (
            f'its stem is a {stem.kernel_size[0]}x{stem.kernel_size[1]} convolution of stride {stem.stride[0]}, as '
            'for small images, not 7x7 of stride 2'
        ),
    )

    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    blocks = [block for stage in stages for block in stage]
    kinds = {type(block) for block in blocks}
    yield (
        not kinds <= {BasicBlock, Bottleneck} or len(kinds) > 1,
        (f'its blocks are {", ".join(sorted(kind.__name__ for kind in kinds))}'),
    )
    attention = [type(block.se).__name__ for block in blocks if block.se is not None]
    yield bool(attention), f'its blocks have attention ({"".join(attention[:1])})'
    pool = model.maxpool
    yield any(not isinstance(block.aa, nn.Identity) for block in blocks), 'it is anti-aliased'
    yield isinstance(pool, nn.Identity), 'its stem has no max-pool, as for small images'
    yield not isinstance(pool, nn.MaxPool2d), 'the pooling of its stem is not a max-pool'
    yield (pool.kernel_size, pool.stride, pool.padding) != (3, 2, 1), 'the max-pool of its stem is not 3x3 of stride 2'

    shortcuts = [block.downsample for block in blocks if block.downsample is not None]
    yield (
        any(not isinstance(shortcut[0], nn.Conv2d) for shortcut in shortcuts),
        ('its shortcuts are average-pooled (ResNet-D)'),
    )
    yield any(shortcut[0].kernel_size != (1, 1) for shortcut in shortcuts), 'its shortcuts are 3x3 convolutions'
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    yield any(conv.dilation != (1, 1) for conv in convs), 'it is dilated (output_stride below 32)'
    yield (
        any(
            _strided_conv(block).stride != (stride if block is stage[0] else 1,) * 2
            for stage, stride in zip(stages, STRIDES)
            for block in stage
        ),
        ('its stages do not stride by 1, 2, 2, 2 (output_stride below 32)'),
    )

    activations = {
        type(module).__name__
        for block in [model, *blocks]
        for name, module in block.named_children()
        if name.startswith('act')
    }
    yield activations != {'ReLU'}, f'its activation is {", ".join(sorted(activations - {"ReLU"}))}, not ReLU'
    yield from _norm_differences(
        [
            model.bn1,
            *(shortcut[1] for shortcut in shortcuts),
            *(module for block in blocks for name, module in block.named_children() if name.startswith('bn')),
        ]
    )

    yield (
        _stages(model) not in DEPTHS.values(),
        (f'none of the depths {", ".join(map(str, DEPTHS))} has stages of {[len(stage) for stage in stages]} blocks'),
    )
    first = model.layer1[0]
    out_channels, groups = _last_conv(first).out_channels, first.conv2.groups
    middle = first.conv2.out_channels
    for number, stage in enumerate(stages):
        for block in stage:
            yield (
                block.conv1.out_channels != block.conv2.out_channels,
                ('the first convolution of its blocks is narrower than the second'),
            )
            yield (
                (_last_conv(block).out_channels, block.conv2.out_channels, block.conv2.groups)
                != (out_channels << number, middle << number, groups),
                'its width does not double from stage to stage',
            )


def _norm_differences(norms: list[nn.Module]) -> Iterator[tuple[bool, str]]:
    kinds = {type(norm) for norm in norms}
    names = ', '.join(sorted(kind.__name__ for kind in kinds))
    if all(issubclass(kind, nn.GroupNorm) for kind in kinds):
        yield (
            any((norm.num_groups, norm.eps, norm.affine) != (GROUPS_OF_NORM, EPSILON, True) for norm in norms),
            (f'its group norm does not have {GROUPS_OF_NORM} groups with epsilon {EPSILON}'),
        )
        return
    yield kinds != {nn.BatchNorm2d}, f'it normalises with {names}, not with batch norm'
    yield (
        any(not norm.affine or not norm.track_running_stats for norm in norms),
        ('its batch norm has no scale and shift, or no running statistics'),
    )


def _stages(model: Any) -> tuple[type, tuple[int, ...]]:
    """Kind of the blocks, and how many of them each stage has, as in `DEPTHS`."""
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    return type(model.layer1[0]), tuple(map(len, stages))


def _strided_conv(block: BasicBlock | Bottleneck) -> nn.Conv2d:
    return block.conv2 if isinstance(block, Bottleneck) else block.conv1


def _last_conv(block: BasicBlock | Bottleneck) -> nn.Conv2d:
    return block.conv3 if isinstance(block, Bottleneck) else block.conv2
