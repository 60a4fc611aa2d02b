"""A ResNet as Detectron2's own backbone: weights in its model-zoo format, and the configuration that goes with them."""

import io
import os
import pickle
import re
import shlex
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from keepaug.console.errors import first_line
from keepaug.export.compare import check_same
from keepaug.export.detectron2_resnet import Detectron2ResNet
from keepaug.export.output import whole_folder
from keepaug.export.resnet_layout import ResNetLayout, backbone_weights, read_layout
from keepaug.export.source import Source

WEIGHTS, CONFIG = 'backbone.pkl', 'config.yaml'
AUTHOR = 'keepaug'

# timm's names to Detectron2's, in this order.
RENAMES = (
    (r'^conv1\.', r'stem.conv1.'),
    (r'^bn1\.', r'stem.conv1.norm.'),
    (r'^layer(\d)\.', lambda stage: f'res{int(stage[1]) + 1}.'),
    (r'\.bn(\d)\.', r'.conv\1.norm.'),
    (r'\.downsample\.0\.', r'.shortcut.'),
    (r'\.downsample\.1\.', r'.shortcut.norm.'),
)
# By channels of the model.
FORMATS = {1: 'L', 3: 'RGB'}
NORMS = {'BN': 'FrozenBN', 'GN': 'GN'}

HEADER = """\
# {architecture} from {path!r}, written by python -m keepaug.export.
# Every key that must change together with the weights. Merge it over the configuration of a detector, or name that
# one in a line _BASE_: PATH at the top. The weights belong to every meta-architecture, so none is set here.
# MODEL.WEIGHTS is the path at the time of writing: change it when the folder moves.
# MODEL.BACKBONE.FREEZE_AT stays at Detectron2's 2 (stem and res2 frozen): right for weights from ImageNet; for
# weights from small or unusual data, set it to 0.
"""
NOT_C4 = """\
# For FPN and RetinaNet, not C4: its head has bottleneck blocks, and would start from random ones without an error.
"""


def export(source: Source, output: str, base: str | None = None) -> str:
    """Writes `backbone.pkl` and `config.yaml` into a new folder.

    Args:
        source: Trained model.
        output: Folder to make.
        base: Configuration of a detector for the key `_BASE_`, so that the written one is complete.

    Returns:
        What was written and the command that uses it.

    Raises:
        ValueError: Detectron2's ResNet cannot express the model, or the export does not compute what the model does.
    """
    layout = check_model(source)
    config = build_config(source, layout, os.path.abspath(os.path.join(output, WEIGHTS)))
    if base:
        config = {'_BASE_': os.path.abspath(base), **config}
    data = pack(rename(backbone_weights(source.model)))
    text = yaml.safe_dump(config, sort_keys=False)
    difference = compare(source.model, source.data_config, yaml.safe_load(text), pickle.loads(data)['model'])
    with whole_folder(output) as folder:
        with open(os.path.join(folder, WEIGHTS), 'wb') as file:
            file.write(data)
        with open(os.path.join(folder, CONFIG), 'w') as file:
            header = HEADER + (NOT_C4 if layout.depth < 50 else '')
            file.write(header.format(architecture=source.architecture, path=source.path) + text)
    path = os.path.join(output, CONFIG)
    return '\n'.join(
        [
            f'{output}: {WEIGHTS} and {CONFIG}; res2 to res5 agree with timm (relative difference {difference:.0e}).',
            f'In Detectron2: python tools/train_net.py --config-file {shlex.quote(path)} --num-gpus 8'
            if base
            else f"In Detectron2: cfg.merge_from_file({path!r}), after the detector's own file; --base names that.",
        ]
    )


def check_model(source: Source) -> ResNetLayout:
    """The model's numbers, if Detectron2's ResNet can have them.

    Raises:
        ValueError: It cannot.
    """
    try:
        layout = read_layout(source.model)
        if layout.depth < 50 and layout.out_channels != 64:
            raise ValueError(f'its first stage has {layout.out_channels} channels, not 64')
    except ValueError as error:
        raise ValueError(
            f"{source.architecture} is not Detectron2's ResNet: {error}. Any timm network with maps of stride 4 to 32 "
            'can be exported with python -m keepaug.export detectron2-timm.'
        ) from error
    check_channels(source)
    return layout


def check_base(path: str) -> None:
    """Says what Detectron2 could not merge, without making values of a file: its own hold tags of Python's.

    Args:
        path: Value of `--base`.

    Raises:
        ValueError: There is no such file, or it is no YAML of a configuration.
    """
    way_out = 'name the YAML file of a detector, such as configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml'
    if not os.path.isfile(path):
        raise ValueError(f'--base {path} does not exist: {way_out}.')
    try:
        with open(path, encoding='utf-8') as file:
            content = yaml.compose(file, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ValueError(f'--base {path} is not YAML: {way_out}.') from error
    pairs = content.value if isinstance(content, yaml.MappingNode) else ()
    if not {'MODEL', '_BASE_'} & {key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)}:
        raise ValueError(
            f'--base {path} holds neither MODEL nor _BASE_, as configurations of Detectron2 do: {way_out}.'
        )


def check_channels(source: Source) -> None:
    """Raises:
    ValueError: Detectron2 has no reader for images of so many channels.
    """
    channels = source.data_config['input_size'][0]
    if channels not in FORMATS:
        raise ValueError(f'{source.architecture} takes {channels} channels, but Detectron2 reads images with 1 or 3.')


def pixel_config(data_config: dict[str, Any]) -> dict[str, Any]:
    """The keys that make Detectron2 prepare images as the run did: it normalises 0..255 where timm does 0..1."""
    mean, std = ([round(255.0 * value, 6) for value in data_config[name]] for name in ('mean', 'std'))
    return dict(
        INPUT=dict(FORMAT=FORMATS[data_config['input_size'][0]]),
        MODEL=dict(PIXEL_MEAN=mean, PIXEL_STD=std),
    )


def build_config(source: Source, layout: ResNetLayout, weights: str) -> dict[str, Any]:
    """Every key that goes with the weights, also where it is Detectron2's default: a base may say otherwise."""
    pixels = pixel_config(source.data_config)
    return dict(
        VERSION=2,
        INPUT=pixels['INPUT'],
        MODEL=dict(
            WEIGHTS=weights,
            **pixels['MODEL'],
            RESNETS=dict(
                DEPTH=layout.depth,
                NUM_GROUPS=layout.groups,
                WIDTH_PER_GROUP=layout.width,
                STRIDE_IN_1X1=False,
                STEM_OUT_CHANNELS=layout.stem_channels,
                RES2_OUT_CHANNELS=layout.out_channels,
                NORM=NORMS[layout.norm],
            ),
        ),
    )


def rename(weights: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """timm's tensors as float32 arrays under Detectron2's names.

    No prefix such as `backbone.bottom_up`: with `matching_heuristics` the bare names fit every meta-architecture.
    """
    arrays = {}
    for name, tensor in weights.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        arrays[name] = np.ascontiguousarray(tensor.float().numpy())
    return arrays


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """The model-zoo format: a pickle that every NumPy reads, old ones and new."""
    buffer = io.BytesIO()
    _PortablePickler(buffer, protocol=4).dump({'model': arrays, '__author__': AUTHOR, 'matching_heuristics': True})
    return buffer.getvalue()


class _PortablePickler(pickle.Pickler):
    """Writes arrays by their public constructor; NumPy 2's own way names a module that NumPy 1.24 does not have."""

    def reducer_override(self, value: Any):
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented


@torch.inference_mode()
def compare(
    model: nn.Module, data_config: dict[str, Any], config: dict[str, Any], arrays: dict[str, np.ndarray]
) -> float:
    """Runs both networks on random images, each with its own normalisation.

    Returns:
        The largest difference of a feature map, relative to its largest value.

    Raises:
        ValueError: The networks differ.
    """
    try:
        restated = Detectron2ResNet(config, arrays)
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f'Nothing was written: the exported weights do not fit the configuration ({first_line(error)}).'
        ) from error
    channels = data_config['input_size'][0]
    images = torch.rand(2, channels, 96, 128, generator=torch.Generator().manual_seed(0)) * 255
    mean, std = (torch.tensor(data_config[name]).view(-1, 1, 1) for name in ('mean', 'std'))
    wanted = model.forward_intermediates((images / 255 - mean) / std, indices=(1, 2, 3, 4), intermediates_only=True)
    return check_same(restated(images), wanted, 'Detectron2')
