"""The flags of `--evaluate risk` and `--evaluate spectrum`, which look at training images."""

import argparse
import re
from collections.abc import Iterable


def add_training_images(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('risk and spectrum: a look at training images').add_argument
    add(
        '--risk-args',
        default='',
        metavar='FILE',
        help='args.yaml of the run whose augmentation risk looks at; unset: that of the checkpoint',
    )
    add(
        '--spectrum-class',
        type=_numbers,
        default=(0,),
        metavar='N[,N...]',
        help='classes whose covariance spectrum looks at, each alone (default: 0)',
    )


def _numbers(text: str) -> tuple[int, ...]:
    """Class numbers between commas, each once."""
    if not re.fullmatch(r'\d+(,\d+)*', text):
        raise argparse.ArgumentTypeError(f'{text!r} is no list of class numbers from 0, such as 0 or 0,3,7')
    return tuple(dict.fromkeys(map(int, text.split(','))))


def check_training_images(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows of what `--evaluate risk` and `--evaluate spectrum` refuse."""
    wants_risk = 'risk' in args.evaluate
    for flag, value in (('--valid-labels', args.valid_labels), ('--early-exit', args.early_exit)):
        yield (
            wants_risk and bool(value),
            (f'--evaluate risk is of the whole model and all classes that it was trained on: drop it, or {flag}.'),
        )
