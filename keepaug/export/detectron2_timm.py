"""Any timm network for Detectron2: weights, configuration, and the module that registers it there."""

import os
import shutil

import yaml

from keepaug.export import detectron2
from keepaug.export.output import whole_folder
from keepaug.export.source import Source
from keepaug.export.timm_folder import save_weights, timm_config

MODULE = 'detectron2_backbone.py'
WEIGHTS, CONFIG = 'model.safetensors', 'config.yaml'
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
    return (
        f'{output}: {CONFIG}, {WEIGHTS} and {MODULE}.\n'
        f'In your Detectron2 script: import detectron2_backbone; detectron2_backbone.add_timm_config(cfg); '
        f'cfg.merge_from_file({os.path.join(output, CONFIG)!r})'
    )


def check_model(source: Source) -> None:
    """Raises:
    ValueError: The model has no maps for an FPN, or Detectron2 reads no images of its channels.
    """
    check_strides(source)
    detectron2.check_channels(source)


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
