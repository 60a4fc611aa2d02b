"""The arguments that a training run left behind: in its checkpoint, in args.yaml beside it, or in a file named."""

import argparse
import copy
import functools
import logging
import os
from collections.abc import Mapping
from typing import Any

from keepaug.files.checkpoints import recorded_args
from keepaug.options.config import convert, read_config, shown
from keepaug.options.parse import create_parser
from keepaug.options.prepare import prepare

_logger = logging.getLogger('validate')

# What a run adds to its arguments, and what was called otherwise before.
NOT_FLAGS = {
    'class_to_idx',
    'distributed',
    'prefetcher',
    'rank',
    'stood_down',
    'taken_over',
    'world_size',
}

# A teacher of distillation changes no image: the file that a record names for it is not opened.
OF_TEACHER = ('kd_model_name', 'kd_pretrained_path')


def read_recorded(checkpoint: Mapping[str, Any], path: str, file: str = '') -> argparse.Namespace:
    """The arguments of the training run that wrote a checkpoint, complete and prepared.

    Keys that no argument has are passed over, arguments that are not recorded take their defaults: a checkpoint of
    stock's script knows none of ours. Values are taken as plain values, whoever wrote them.

    Args:
        checkpoint: What `check_checkpoint` read.
        path: Its file; `args.yaml` beside it counts where it holds no arguments itself. Empty without a checkpoint.
        file: YAML file that counts instead of both (`--risk-args`).

    Raises:
        ValueError: Nothing is recorded, or a value does not fit its argument.
    """
    beside = os.path.join(os.path.dirname(path), 'args.yaml')
    held = checkpoint.get('args') is not None
    recorded = recorded_args(checkpoint, f'The checkpoint {path}')
    if file:
        source, recorded = f'--risk-args {file}', read_config(file, '--risk-args')
    elif held:
        source = f'the arguments in {path}'
    elif path and os.path.isfile(beside):
        source, recorded = beside, read_config(beside, 'The file')
    else:
        raise ValueError(
            f'--evaluate risk does not know how {path or "the model"} was trained, it records no arguments: give its '
            'args.yaml with --risk-args, or leave risk out.'
        )
    _tell_unknown(recorded, source)
    try:
        return prepare(read_values(recorded))
    except ValueError as error:
        raise ValueError(f'--evaluate risk cannot follow {source}: {error}') from error


def _tell_unknown(recorded: Mapping[str, Any], source: str) -> None:
    """Says which recorded arguments nothing here knows: a method from outside may have changed the images by them."""
    known = {action.dest for action in create_parser()._actions} | NOT_FLAGS
    strange = [
        f'{name} {shown(value)}'
        for name, value in recorded.items()
        if name not in known and isinstance(value, (str, int, float, list, tuple, dict)) and value
    ]
    if strange:
        _warn_once(
            f'--evaluate risk augments without what nothing here knows of {source}: {", ".join(strange[:5])}'
            f'{" ..." if len(strange) > 5 else ""}. Import the module of the method it belongs to first.'
        )


@functools.cache
def _warn_once(sentence: str) -> None:
    """A run is read more than once, before any image and for each evaluation."""
    _logger.warning(sentence)


def read_values(recorded: Mapping[str, Any]) -> argparse.Namespace:
    """Recorded values as the training parser would have stored them, with its defaults for those that are missing.

    Raises:
        ValueError: A value does not fit its argument.
    """
    # What `prepare` took from stock is stock's again; version 0.1 called it otherwise.
    for name in ('stood_down', 'taken_over'):
        taken = recorded.get(name)
        recorded = {**recorded, **(vars(taken) if isinstance(taken, argparse.Namespace) else {})}
    parser = create_parser()
    args = parser.parse_args([])
    for action in parser._actions:
        if action.dest not in recorded or action.dest in OF_TEACHER or not hasattr(args, action.dest):
            continue
        value = recorded[action.dest]
        try:
            value = convert(action, list(value) if isinstance(value, tuple) else value)
        except ValueError as error:
            raise ValueError(f'{action.dest} is {shown(value)}, {error}.') from error
        setattr(args, action.dest, copy.copy(value))
    return args
