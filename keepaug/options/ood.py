"""The flags of `--evaluate ood`."""

import argparse
import os
import re
from collections.abc import Iterable

TAKEN = ('uniform', 'gaussian', 'in-distribution')  # the names of noise, and of the images it is told from


def add_ood(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('ood: images unlike the training data, told by how sure the model is').add_argument
    add(
        '--ood-data-dir',
        nargs='+',
        default=[],
        metavar='[NAME=]FOLDER',
        help='folders of out-of-distribution images, each a set called NAME, or by its folder; uniform and Gaussian '
        'noise are sets anyway',
    )
    add('--odin-temperature', type=float, default=1000.0, metavar='T', help='temperature of the ODIN score')
    add(
        '--odin-eps',
        type=float,
        default=0.0014,
        metavar='X',
        help='perturbation of the ODIN score in pixels of [0, 1]; 0 for the temperature alone',
    )


def read_set(text: str) -> tuple[str, str]:
    """The name, empty without one, and the folder of a set given as FOLDER or NAME=FOLDER."""
    name, equals, folder = text.partition('=')
    named = equals and os.sep not in name and not os.path.isdir(text)
    return (name, folder) if named else ('', text)


def check_ood(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows of what `--evaluate ood` refuses."""
    names = []
    for text in args.ood_data_dir:
        name, path = read_set(text)
        yield not os.path.isdir(path), f'--ood-data-dir {path} is no folder: name folders of images.'
        if path == text:
            continue
        yield (
            not re.fullmatch(r'[\w.-]+', name) or name in TAKEN,
            (
                f'--ood-data-dir {text} cannot be called {name!r}: choose a name of letters, digits, _, - and dots, '
                f'other than {" and ".join(TAKEN)}.'
            ),
        )
        yield name in names, f'--ood-data-dir gives two folders the name {name}: choose another for {path}.'
        names.append(name)
