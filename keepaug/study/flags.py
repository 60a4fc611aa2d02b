"""The command line of a study: its own flags, and behind `--` those of training."""

import argparse
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from keepaug import options
from keepaug.installation import command, install_extra
from keepaug.methods.method import spell
from keepaug.options import shared
from keepaug.options.flag_ranges import STUDY_RANGES, range_rows

NEEDED = ('scipy', 'matplotlib')
# What a study says itself of each run, by the options of training, with what says it.
TAKEN = {
    'seed': 'give --seeds N before --',
    'output': 'give --output DIR before --',
    'experiment': 'leave it out, runs are called by arm and seed',
    'device': 'give --slots before --',
    'resume': 'leave it out, the same command continues each run',
}


def create_parser() -> shared.Parser:
    """The command's flags; what stands behind `--` is training's."""
    parser = shared.Parser(
        prog=shlex.join(command('study')),
        allow_abbrev=False,
        usage='%(prog)s FILE [options] [-- FLAGS OF TRAINING]',
        description='Trains every arm of a study with several seeds and reports after every run.',
        epilog=f'example: {shlex.join(command("study"))} papers/keepaugment/table1 --slots cuda:0 cuda:1 -- '
        '--data-dir /data/cifar10',
    )
    add = parser.add_argument
    add('file', metavar='FILE', help='study file, or one of ours, such as papers/keepaugment/table1')
    add('--output', type=Path, metavar='DIR', help='folder for the runs and the report; unset: output/studies/NAME')
    add('--seeds', type=int, metavar='N', help="runs per arm; unset: the study's")
    add('--arms', nargs='+', default=[], metavar='ARM', help='arms to train; unset: all')
    add(
        '--slots',
        nargs='+',
        default=['cpu:1'],
        metavar='SLOT',
        help='where runs are carried out at the same time: cpu:1 (one thread), cuda:0, cuda:0,1 (one process on each)',
    )
    add(
        '--scale',
        type=float,
        default=1.0,
        metavar='SHARE',
        help='share of the epochs and data to use, for a small machine; the report says so',
    )
    add('--sheets', action='store_true', help='draw what each arm does to an image into the report')
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        '--list', action='store_true', help='print one command per run, for any scheduler, without running it'
    )
    mode.add_argument('--collect', action='store_true', help='report on the existing runs without running anything')
    mode.add_argument('--only', metavar='ARM:SEED', help='carry out one run, as the commands of --list do')
    mode.add_argument(
        '--slurm',
        nargs='*',
        metavar='KEY=VALUE',
        help='submit the runs through submitit, with parameters for its executor such as timeout_min=600',
    )
    add('--cluster', metavar='NAME', help="submitit's executor; unset: the one it finds, such as slurm")
    return parser


def parse(words: Sequence[str], flags: Sequence[str]) -> argparse.Namespace:
    """The study's own flags; what stands on the wrong side of `--` is told its place.

    Args:
        words: What stands before `--`.
        flags: What stands behind it.

    Raises:
        ValueError: A flag of the one stands among those of the other, or says what the study says.
    """
    parser, training = create_parser(), options.create_parser()
    training.prog = shlex.join(command('train'))
    args, strange = parser.parse_known_args(words)
    for flag in _names(strange):
        if flag in training.flags:
            raise ValueError(f'{flag} is a flag of training: write it behind --, as in {parser.prog} FILE -- {flag}.')
    if strange:
        parser.error(f'unrecognized arguments: {" ".join(strange)}')
    for flag in _names(flags):
        if flag in parser.flags and flag not in training.flags:
            raise ValueError(f'{flag} is a flag of the study: write it before --, behind which those of training are.')
    _, rest = options.create_config_parser(training).parse_known_args(flags)  # which takes -c alone
    for name in sorted(options.typed_options(training, rest) & TAKEN.keys()):
        raise ValueError(f'{spell(name)} behind -- says what the study says of each run: {TAKEN[name]}.')
    return args


def _names(words: Sequence[str]) -> list[str]:
    return [word.partition('=')[0] for word in words if word.startswith('-')]


def check(args: argparse.Namespace) -> None:
    """Says before anything is read what cannot be.

    Raises:
        ValueError: A value or a package is missing or wrong.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if args.slurm is not None and importlib.util.find_spec('submitit') is None:
        missing.append('submitit')
    if missing:
        raise ValueError(f'A study needs {" and ".join(missing)}: {install_extra("study")}.')
    rows = range_rows(args, STUDY_RANGES)
    unused = args.cluster is not None and args.slurm is None
    options.refuse([*rows, (unused, f'--cluster {args.cluster} has no effect without --slurm: add that, or drop it.')])
