"""The flags of `--evaluate ood`."""

import argparse
import os
from collections.abc import Iterable


def add_ood(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('ood: images unlike the training data, told by how sure the model is').add_argument
    add(
        '--ood-data-dir',
        nargs='+',
        default=[],
        metavar='FOLDER',
        help='folders of out-of-distribution images, each a set; uniform and Gaussian noise are sets anyway',
    )
    add('--odin-temperature', type=float, default=1000.0, metavar='T', help='temperature of the ODIN score')
    add(
        '--odin-eps',
        type=float,
        default=0.0014,
        metavar='X',
        help='perturbation of the ODIN score in pixels of [0, 1]; 0 for the temperature alone',
    )


def check_ood(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows of what `--evaluate ood` refuses."""
    for path in args.ood_data_dir:
        yield not os.path.isdir(path), f'--ood-data-dir {path} is no folder: name folders of images.'
