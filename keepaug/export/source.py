"""What is exported: a checkpoint, and the model that it describes itself."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.data import resolve_input_data_config
from timm.models import clean_state_dict, model_entrypoint, resolve_model_input_args
from torch import Tensor, nn

from keepaug.console.errors import first_line
from keepaug.data.classes import name_classes, number_classes
from keepaug.data.folders import find_split, survey_classes
from keepaug.files.checkpoints import (
    AVERAGED,
    SAFETENSORS,
    check_checkpoint,
    find_weights,
    is_class_list,
    is_weight,
    read_exported,
)
from keepaug.models.described import describe
from keepaug.models.recorded import check_images, check_recorded, statistics_problem

# What a run may say about its images; the rest is the architecture's own.
PREPROCESSING = ('in_chans', 'img_size', 'input_size', 'mean', 'std', 'crop_pct', 'interpolation')


@dataclass(frozen=True)
class Source:
    """A trained model with all that its users must know.

    Attributes:
        path: The checkpoint.
        model: The model with its weights, in float32, on the CPU and in eval mode.
        preprocessing: What the run said about its images, as named arguments of timm's scripts.
        data_config: How images enter the model: `input_size` (C, H, W) in pixels, `mean` and `std` for pixels in
            [0, 1], `crop_pct`, `crop_mode`, `interpolation`.
        averaged: Whether the weights are the running average (EMA).
        labels: Names of the classes by number, if the file has one for each.
        dataset: Data set of the run (`--dataset`), if the file says so; empty for a folder.
    """

    path: str
    model: nn.Module
    preprocessing: dict[str, Any]
    data_config: dict[str, Any]
    averaged: bool
    labels: list[str] | None = None
    dataset: str = ''

    @property
    def architecture(self) -> str:
        return self.model.pretrained_cfg['architecture']

    @property
    def prerequisite(self) -> str:
        """What timm needs to know the architecture, to be put behind its name; empty for its own."""
        return ', after import keepaug' if model_entrypoint(self.architecture).__module__.startswith('keepaug') else ''


def load_source(path: str, overrides: Mapping[str, Any] | None = None, use_ema: bool = True) -> Source:
    """Builds the model a checkpoint describes and loads its weights, without running anything in the file.

    Args:
        path: Checkpoint of a training run, file of weights, or a safetensors file of ours.
        overrides: Arguments of timm's scripts (`model`, `num_classes`, `model_kwargs`, `mean` ...) that go before those
            the checkpoint holds; unset ones (None, empty) are ignored.
        use_ema: Take the running average where there is one.

    Raises:
        ValueError: The file is missing, damaged, would execute code, or is not of the model.
    """
    recorded, weights, averaged = _read(path, use_ema)
    args = _override(
        recorded, {name: value for name, value in (overrides or {}).items() if value not in (None, '', {})}
    )
    if not args.get('model'):
        raise ValueError(f'CHECKPOINT {path} does not name its model: give --model and --num-classes.')
    problem = statistics_problem(overrides or {}, args.get('in_chans') or (args.get('input_size') or [3])[0])
    if problem:
        raise ValueError(problem)
    of_file = {} if (overrides or {}).get('model_kwargs') else recorded.get('model_kwargs') or {}
    check_recorded(lambda: build_model(args), of_file, os.path.getsize(path), f'CHECKPOINT {path}')
    try:
        model = build_model(args)
        data_config = resolve_input_data_config(model, args=args)
        preprocessing = {name: args[name] for name in PREPROCESSING if args.get(name)}
    except Exception as error:  # whatever a constructor stumbles over in arguments that a file makes up
        raise ValueError(
            f'The model of CHECKPOINT {path}, {args["model"]}, cannot be built ({first_line(error)}): give --model, '
            '--num-classes and --model-kwargs of the run that wrote it.'
        ) from error
    check_images(data_config, f'CHECKPOINT {path}')
    _load(model, weights, path, args['model'])
    return Source(
        path=path,
        model=model.eval(),
        preprocessing=preprocessing,
        data_config=data_config,
        averaged=averaged,
        labels=_name_labels(args.get('class_to_idx'), model.num_classes),
        dataset=str(args.get('dataset') or ''),
    )


def _override(recorded: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The record of a run with other values in it; a size takes the place of any other record of the size."""
    args = {**recorded, **given}
    if given.get('input_size'):
        args.update(in_chans=None, img_size=None)
    elif given.get('img_size') and recorded.get('input_size'):
        args.update(in_chans=args.get('in_chans') or recorded['input_size'][0], input_size=None)
    return args


def _read(path: str, use_ema: bool) -> tuple[dict[str, Any], dict[str, Tensor], bool]:
    """What a file holds: the arguments of its run, the weights, and whether these are averaged."""
    checkpoint, source = check_checkpoint(path, 'CHECKPOINT', averaged=use_ema), f'CHECKPOINT {path}'
    recorded = describe(checkpoint, path, 'CHECKPOINT')
    if path.endswith(SAFETENSORS):
        averaged = read_exported(path, 'CHECKPOINT')[1].get('averaged') == 'true'
        if averaged and not use_ema:
            raise ValueError(f'--no-ema finds no plain weights in {source}, which holds only the average: drop it.')
        return recorded, checkpoint, averaged
    run = checkpoint.get('args')
    dataset = vars(run).get('dataset') if isinstance(run, argparse.Namespace) else ''
    recorded = {**recorded, 'dataset': dataset if isinstance(dataset, str) else ''}
    weights, key = find_weights(checkpoint, source, averaged=use_ema)
    if not all(map(is_weight, weights.values())):
        raise ValueError(f'{source} holds no named weights: give one that a training run wrote.')
    return recorded, clean_state_dict(dict(weights)), key in AVERAGED


def build_model(args: Mapping[str, Any]) -> nn.Module:
    """The model as the training script builds it, without what matters in training only."""
    in_chans = args.get('in_chans')
    if in_chans is None and args.get('input_size'):
        in_chans = args['input_size'][0]
    model_args = resolve_model_input_args(
        args['model'],
        dict(args),
        in_chans=in_chans,
        num_classes=args.get('num_classes'),
        global_pool=args.get('gp'),
        bn_eps=args.get('bn_eps'),
        **(args.get('model_kwargs') or {}),
    )
    return timm.create_model(pretrained=False, **model_args)


def _load(model: nn.Module, weights: dict[str, Tensor], path: str, name: str) -> None:
    """Loads every tensor of the model, and leaves none of the file over.

    Raises:
        ValueError: The weights are of another model.
    """
    wanted = model.state_dict()
    # Batch norm that was split over views (--split-bn) evaluates with its main statistics.
    weights = {key: tensor for key, tensor in weights.items() if key in wanted or '.aux_bn.' not in key}
    faults = {
        'it lacks': [key for key in wanted if key not in weights],
        'it also has': [key for key in weights if key not in wanted],
        'it has with another shape': [
            key for key, tensor in wanted.items() if key in weights and weights[key].shape != tensor.shape
        ],
    }
    told = ', '.join(f'{what} {_count(keys)}' for what, keys in faults.items() if keys)
    if told:
        raise ValueError(
            f'CHECKPOINT {path} does not fit {name} with {getattr(model, "num_classes", "?")} classes: {told}. Give '
            '--model, --num-classes and --model-kwargs of the run that wrote it.'
        )
    model.load_state_dict(weights)


def _name_labels(class_to_idx: Any, num_classes: int) -> list[str] | None:
    """Names by number, where what a file says of classes has one for each."""
    names = name_classes(class_to_idx) if is_class_list(class_to_idx) else {}
    return [names[index] for index in range(num_classes)] if names.keys() == {*range(num_classes)} else None


def _count(keys: list[str]) -> str:
    return keys[0] + (f' and {len(keys) - 1} more' if len(keys) > 1 else '')


def read_labels(path: str, num_classes: int) -> list[str]:
    """Names of the classes, by index.

    Args:
        path: Text file with a name per line, or image folder (or its root, with a split `train` in it) with a folder
            of images per class, in timm's order.
        num_classes: How many there must be.

    Raises:
        ValueError: There is no such path, or it names another number of classes.
    """
    try:
        if os.path.isdir(path):
            names = list(number_classes(survey_classes(find_split(path, 'train') or path).classes))
        else:
            with open(path, encoding='utf-8') as file:
                names = [line.strip() for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(
            f'--labels {path} cannot be read ({getattr(error, "strerror", None) or first_line(error)}): give a file '
            'with one class name per line, or the image folder of the run.'
        ) from error
    if len(names) != num_classes:
        raise ValueError(f'--labels {path} names {len(names)} classes, but the model has {num_classes}.')
    return names
