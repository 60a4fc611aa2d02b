"""A ResNet as the backbone of torchvision's detectors.

    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(backbone_name='resnet50', weights=None)
    backbone.body.load_state_dict(torch.load('backbone.pth', weights_only=True))
    detector = FasterRCNN(backbone, num_classes=21, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])

The export prints these lines with the names and numbers of the checkpoint.
"""

import io

import torch
import torchvision
from torchvision.ops.misc import FrozenBatchNorm2d

from keepaug.export.compare import check_same
from keepaug.export.output import whole_file
from keepaug.export.resnet_layout import ResNetLayout, backbone_weights, read_layout
from keepaug.export.source import Source
from keepaug.private import IntermediateLayerGetter

# torchvision's builders by depth, groups and width.
BUILDERS = {
    (18, 1, 64): 'resnet18',
    (34, 1, 64): 'resnet34',
    (50, 1, 64): 'resnet50',
    (101, 1, 64): 'resnet101',
    (152, 1, 64): 'resnet152',
    (50, 32, 4): 'resnext50_32x4d',
    (101, 32, 8): 'resnext101_32x8d',
    (101, 64, 4): 'resnext101_64x4d',
    (50, 1, 128): 'wide_resnet50_2',
    (101, 1, 128): 'wide_resnet101_2',
}


def export(source: Source, output: str) -> str:
    """Writes the weights without classifier and counters under torchvision's names.

    Returns:
        The lines that build a detector on them.

    Raises:
        ValueError: torchvision has no such network, or computes something else with the weights.
    """
    name = _builder(source)
    weights = backbone_weights(source.model)
    _check(source, name, weights)
    data = io.BytesIO()
    torch.save(weights, data)
    with whole_file(output) as path, open(path, 'wb') as file:
        file.write(data.getbuffer())
    mean, std = (list(source.data_config[key]) for key in ('mean', 'std'))
    return (
        f'{output}: {name} without its classifier. In torchvision:\n'
        f"    backbone = resnet_fpn_backbone(backbone_name='{name}', weights=None)\n"
        f'    backbone.body.load_state_dict(torch.load({output!r}, weights_only=True))\n'
        f'    detector = FasterRCNN(backbone, num_classes=..., image_mean={mean}, image_std={std})'
    )


def _builder(source: Source) -> str:
    """torchvision's name of the network."""
    try:
        layout = read_layout(source.model)
        name = BUILDERS.get((layout.depth, layout.groups, layout.width))
        if name is None or layout != _plain(layout):
            raise ValueError(
                f'torchvision has none of depth {layout.depth} with {layout.groups} groups of {layout.width} and norm '
                f'{layout.norm}'
            )
        if source.data_config['input_size'][0] != 3:
            raise ValueError(f'it takes {source.data_config["input_size"][0]} channels, not 3')
    except ValueError as error:
        raise ValueError(
            f'{source.architecture} is not a ResNet of torchvision: {error}. Export it for timm (python -m '
            'keepaug.export timm) and give FasterRCNN a features_only timm model.'
        ) from error
    return name


def _plain(layout: ResNetLayout) -> ResNetLayout:
    """The layout of this depth, groups and width in torchvision."""
    return ResNetLayout(
        layout.depth,
        layout.groups,
        layout.width,
        stem_channels=64,
        out_channels=64 if layout.depth < 50 else 256,
        norm='BN',
    )


@torch.inference_mode()
def _check(source: Source, name: str, weights: dict[str, torch.Tensor]) -> None:
    """Builds torchvision's body with the weights and compares its features with timm's.

    Raises:
        ValueError: They differ.
    """
    model = getattr(torchvision.models, name)(weights=None, norm_layer=FrozenBatchNorm2d)
    body = IntermediateLayerGetter(model, {f'layer{stage}': f'layer{stage}' for stage in (1, 2, 3, 4)}).eval()
    body.load_state_dict(weights)
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    wanted = source.model.forward_intermediates(images, indices=(1, 2, 3, 4), intermediates_only=True)
    check_same(body(images), wanted, 'torchvision')
