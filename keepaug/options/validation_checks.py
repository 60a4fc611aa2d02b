"""What the validation script refuses before any data is read, and its options made complete."""

import argparse
import copy
import functools
import importlib.util
from collections.abc import Iterable
from typing import Any

import torch

from keepaug.methods.method import Refusal, spell
from keepaug.options.device_checks import device_rows, format_rows
from keepaug.options.evaluation import check_evaluation
from keepaug.options.flag_ranges import range_rows
from keepaug.options.newer import check_task
from keepaug.options.prepare import refuse
from keepaug.options.stock_checks import (
    channel_rows,
    data_rows,
    head_rows,
    interpolation_rows,
    mode_rows,
    model_rows,
)
from keepaug.options.validate import add_ours, create_validate_parser
from keepaug.ranges import any_of

# Closed sets of names that stock's script or timm reads.
STOCK_NAMES = {'crop_mode': ('center', 'squash', 'border'), 'results_format': ('csv', 'json')}


def complete_validation(args: argparse.Namespace) -> argparse.Namespace:
    """A copy of options of the validation script with a value for every one, whoever's parser they came from."""
    return argparse.Namespace(**{**copy.deepcopy(_defaults()), **vars(args)})


def check_validate(args: argparse.Namespace) -> None:
    """Checks the options of the validation script, whose `--model` may be a pattern or a file.

    Args:
        args: Options returned by `complete_validation`.

    Raises:
        ValueError: One sentence for the user.
    """
    for check in (
        data_rows,
        model_rows,
        head_rows,
        device_rows,
        format_rows,
        interpolation_rows,
        _names,
        _kernels,
        range_rows,
        channel_rows,
        mode_rows,
        check_task,
        _early_exit,
        check_evaluation,
    ):
        refuse(check(args))


@functools.cache
def _defaults() -> dict[str, Any]:
    parser = create_validate_parser()
    add_ours(parser)
    # How one of several runs came to be judged, and is called beside the others (`keepaug.validation.runs`).
    # Which options were typed, where somebody took it down as `main` does, and what a file says of its model.
    return {
        **vars(parser.parse_args([])),
        'named_by': '',
        'label': '',
        'device_modules': None,
        'typed': None,
        'described': None,
        'check': False,
    }


def _names(args: argparse.Namespace) -> Iterable[Refusal]:
    for name, known in STOCK_NAMES.items():
        value = vars(args)[name]
        yield value not in (None, *known), f'{spell(name, value)} is unknown: choose {any_of(known)}.'


def _kernels(args: argparse.Namespace) -> Iterable[Refusal]:
    devices = torch.cuda.device_count()
    yield (
        args.num_gpu > 1 and args.num_gpu > devices,
        f'--num-gpu {args.num_gpu} is more than there are here, {devices}: give fewer.',
    )
    yield (
        args.tf_preprocessing and importlib.util.find_spec('tensorflow') is None,
        ('--tf-preprocessing needs the package tensorflow: pip install tensorflow, or drop it.'),
    )


def _early_exit(args: argparse.Namespace) -> Iterable[Refusal]:
    yield (
        args.early_exit and not args.checkpoint,
        ("--early-exit judges the early head of a training run: name the run's file with --checkpoint."),
    )
