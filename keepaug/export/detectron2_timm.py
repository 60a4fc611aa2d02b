"""Any timm network for Detectron2: weights, configuration, and the module that registers it there."""

import os
import shutil
from typing import Any

import timm
import torch
import yaml

from keepaug.console.errors import first_line
from keepaug.export import detectron2
from keepaug.export.output import whole_folder
from keepaug.export.source import Source
from keepaug.export.timm_folder import save_weights, timm_config

MODULE = 'detectron2_backbone.py'
WEIGHTS, CONFIG = 'model.safetensors', 'config.yaml'
# Of a trial, in pixels: strides of 32 divide it, and no network is made for it.
TRIAL_SIZE = (96, 160)
# Strides of the maps that an FPN adds.
STRIDES = {4, 8, 16, 32}
# What Detectron2 decides itself, by the images and by the head it puts on top.
LEFT_OUT = ('num_classes', 'global_pool', 'in_chans')


def export(source: Source, output: str, base: str | None = None) -> str:
    """Writes `config.yaml`, `model.safetensors` and a copy of `detectron2_backbone.py` into a new folder.

    Args:
        source: Trained model.
        output: Folder to make.
        base: Configuration of a detector for the key `_BASE_`, so that the written one is complete.

    Returns:
        What was written and how to use it.

    Raises:
        ValueError: The model has no maps for an FPN, or Detectron2 reads no images of its channels.
    """
    check_model(source)
    check_any_size(source)
    pixels = detectron2.pixel_config(source.data_config)
    arguments = timm_config(source)['model_args']
    config = dict(
        **({'_BASE_': os.path.abspath(base)} if base else {}),
        VERSION=2,
        INPUT=pixels['INPUT'],
        MODEL=dict(
            WEIGHTS='',
            **pixels['MODEL'],
            BACKBONE=dict(NAME='build_keepaug_timm_fpn_backbone'),
            TIMM=dict(
                NAME=source.architecture,
                CHECKPOINT=os.path.abspath(os.path.join(output, WEIGHTS)),
                KWARGS={name: value for name, value in arguments.items() if name not in LEFT_OUT},
            ),
        ),
    )
    with whole_folder(output) as folder:
        save_weights(source, os.path.join(folder, WEIGHTS))
        shutil.copy(os.path.join(os.path.dirname(__file__), MODULE), folder)
        with open(os.path.join(folder, CONFIG), 'w') as file:
            file.write(f'# {source.architecture} from {source.path!r}, written by python -m keepaug.export.\n')
            file.write('# RetinaNet: MODEL.BACKBONE.NAME build_keepaug_timm_retinanet_fpn_backbone.\n')
            yaml.safe_dump(config, file, sort_keys=False)
    detector = '' if base else "cfg.merge_from_file of the detector's own file; "
    return (
        f'{output}: {CONFIG}, {WEIGHTS} and {MODULE}.\n'
        f'In your Detectron2 script: import detectron2_backbone; detectron2_backbone.add_timm_config(cfg); '
        f'{detector}cfg.merge_from_file({os.path.join(output, CONFIG)!r})'
        + ('' if base else ', in this order; --base names the file of the detector inside.')
    )


def check_model(source: Source) -> None:
    """Raises:
    ValueError: The model has no maps for an FPN, or Detectron2 reads no images of its channels.
    """
    check_strides(source)
    detectron2.check_channels(source)


def check_any_size(source: Source) -> None:
    """Runs the architecture on images of another size and shape than in training, told of them as the module tells it.

    Raises:
        ValueError: It does not run there, or its maps are not of the size that an FPN adds.
    """
    arguments = {name: value for name, value in timm_config(source)['model_args'].items() if name not in LEFT_OUT}
    channels = source.data_config['input_size'][0]
    body = _create_for_any_size(source.architecture, in_chans=channels, **arguments).eval()
    problem = ''
    try:
        with torch.inference_mode():
            shapes = [tuple(features.shape) for features in body(torch.zeros(1, channels, *TRIAL_SIZE))]
    except (RuntimeError, AssertionError) as error:
        problem = f'does not run on images of {TRIAL_SIZE[0]} x {TRIAL_SIZE[1]} pixels ({first_line(error)})'
    else:
        wanted = {tuple(side // stride for side in TRIAL_SIZE) for stride in STRIDES}
        found = {shape[start : start + 2] for shape in shapes for start in (1, 2)}
        if not wanted <= found:
            problem = f'gives maps of other sizes than an FPN adds, on images of {TRIAL_SIZE[0]} x {TRIAL_SIZE[1]}'
    if problem:
        raise ValueError(
            f"{source.architecture} {problem}, and a detector's images are of any size: choose the format timm, or "
            'train a network such as a ResNet, ConvNeXt or Swin.'
        )


def _create_for_any_size(name: str, **arguments: Any) -> torch.nn.Module:
    """The network with its maps, told where it understands that images will not keep to one size."""
    if timm.models.get_pretrained_cfg_value(name, 'fixed_input_size'):
        for any_size in ({'strict_img_size': False}, {'dynamic_img_size': True}):
            try:
                return timm.create_model(name, features_only=True, **{**any_size, **arguments})
            except TypeError:  # it does not know the argument
                continue
    return timm.create_model(name, features_only=True, **arguments)


def check_strides(source: Source) -> None:
    """Raises:
    ValueError: The model's maps do not halve from 4 to 32.
    """
    found = sorted({info['reduction'] for info in getattr(source.model, 'feature_info', ())})
    if not STRIDES.issubset(found):
        raise ValueError(
            f'{source.architecture} has feature maps of stride {", ".join(map(str, found)) or "unknown"}, but an FPN '
            'needs 4, 8, 16 and 32: train a network with such stages, or export a plain vision transformer for timm '
            "and use Detectron2's SimpleFeaturePyramid (projects/ViTDet)."
        )
