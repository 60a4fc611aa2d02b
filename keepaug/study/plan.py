"""From a study file and a command line to the runs that are to be carried out."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from keepaug import data, options
from keepaug.installation import command
from keepaug.methods.method import spell
from keepaug.options.prepare import defaults
from keepaug.ranges import any_of
from keepaug.study.flags import TAKEN
from keepaug.study.runs import StudyRun, versions
from keepaug.study.scale import DataShare, scaled_flags
from keepaug.study.study import Study

# What may differ between runs that are compared: where things lie and what computes.
PLACES = {
    'data',
    'data_dir',
    'dataset_download',
    'output',
    'experiment',
    'resume',
    'device',
    'workers',
    'pin_mem',
    'seed',
    'exact_resume',
    'log_interval',
    'log_tensorboard',
    'checkpoint_hist',
}


def plan_runs(
    study: Study,
    output: Path,
    seeds: int,
    arms: Sequence[str] = (),
    scale: float = 1.0,
    flags: Sequence[str] = (),
    here: bool = False,
) -> list[StudyRun]:
    """Every run of a study, all arms of a seed first, so that a study that is cut short stays paired.

    Args:
        study: The study.
        output: Folder of its runs and results.
        seeds: Runs per arm.
        arms: Names of the arms that are wanted; all of them if empty.
        scale: Share of epochs and data that is left.
        flags: Flags of train.py for all runs, such as where the data are.
        here: Whether the runs are to be carried out here, where their data must be then.

    Raises:
        ValueError: An arm's flags do not fit together, or its folder holds another run.
    """
    unknown = set(arms) - {arm.name for arm in study.arms}
    if unknown:
        raise ValueError(
            f'--arms {min(unknown)!r} is not an arm of {study.path}: choose '
            f'{any_of(repr(arm.name) for arm in study.arms)}.'
        )
    planned, parser = [], options.create_parser()
    shares: dict[str, DataShare] = {}
    parser.prog = shlex.join(command('train'))
    for arm in study.arms:
        if arms and arm.name not in arms:
            continue
        words = [*study.words(arm), *flags]
        args = parse(parser, words, arm.name, study.exact)
        if here:
            check_data(args, arm.name)
        share = data_share(study, args, scale, output)
        if share and share.source in shares:
            share = shares[share.source]  # whose images are listed already
        elif share:
            shares[share.source] = share
            if here:
                share.check()
        held = share.describe() if share else describe_data(args)
        extra, whole = scaled_flags(args, scale), args
        if extra:
            args = parse(parser, [*words, *extra], arm.name, study.exact)
        growth = 1 / scale if share else (whole.train_num_samples or 1) / (args.train_num_samples or 1)
        if share:
            extra += ['--data-dir', str(share.folder)]
        identity = {'flags': spell_options(args), 'data': held, **versions()}
        for seed in range(seeds):
            folder = output / 'runs' / f'{arm.folder}-{seed}'
            planned.append(
                StudyRun(arm, seed, (*words, *extra), folder, study.exact, identity, share, whole.epochs * growth)
            )
    planned.sort(key=lambda run: run.seed)  # stable: the order of the arms stays
    for run in planned:
        run.check()
    return planned


def parse(parser: argparse.ArgumentParser, words: Sequence[str], arm: str, exact: bool) -> argparse.Namespace:
    """The options of a run, checked as train.py checks them.

    Raises:
        ValueError: They do not fit together.
    """
    try:
        # The device is that of the slot, which may be another machine's.
        own = ['--device', 'cpu', *(['--exact-resume'] if exact else [])]
        args = options.parse_options(parser, [*words, *own])
        for name in sorted(args.typed & TAKEN.keys() - {'device'}):
            raise ValueError(f'{spell(name)} in its flags says what the study says of each run: {TAKEN[name]}.')
        args = options.prepare(args)
        options.check_stock(args)
    except ValueError as error:
        raise ValueError(f'The arm {arm}: {error}') from error
    except SystemExit as error:  # argparse has said why
        if not error.code:
            raise  # it was asked for help
        raise ValueError(
            f'The arm {arm} has flags that train.py does not understand; the line above says why.'
        ) from error
    return args


def check_data(args: argparse.Namespace, arm: str) -> None:
    """Checks the data of a run as train.py does before it builds anything.

    Raises:
        ValueError: They are not there, or not as the flags say.
    """
    try:
        data.check_data_folder(args.dataset, args.data_dir or args.data)
        data.check_named_set(args)
    except ValueError as error:
        raise ValueError(f'The arm {arm}: {error}') from error


def spell_options(args: argparse.Namespace) -> str:
    """The options that are not at their defaults and change what is trained, as one line."""
    unset = defaults()
    given = {**vars(args), **vars(args.taken_over)}
    return ' '.join(
        f'{name}={given[name]!r}'.replace(' ', '')
        for name in sorted(unset)
        if name not in PLACES and given[name] != unset[name]
    )


def data_share(study: Study, args: argparse.Namespace, scale: float, output: Path) -> DataShare | None:
    """The share of an image folder that a run reads; None where it reads all there is.

    Raises:
        ValueError: The study takes images of a folder, and the run reads none.
    """
    source = '' if args.dataset else args.data_dir or args.data
    if study.images_per_class and not source:
        given = f'--dataset {args.dataset} is none' if args.dataset else 'none is given'
        raise ValueError(
            f'The study {study.path} has images_per_class, which takes images of an image folder, but {given}: name '
            'one with --data-dir, and no --dataset.'
        )
    if not source or (scale == 1.0 and not study.images_per_class):
        return None
    return DataShare(source, output / f'data-{scale:g}', scale, study.images_per_class)


def describe_data(args: argparse.Namespace) -> str:
    """The data in a few words, so that other data are noticed: the name, or how many images the splits hold."""
    source = args.data_dir or args.data
    if args.dataset or not source or not os.path.isdir(source):
        return args.dataset or 'a folder elsewhere'
    counts = []
    for split in sorted(entry.name for entry in os.scandir(source) if entry.is_dir()):
        classes = [entry.path for entry in os.scandir(os.path.join(source, split)) if entry.is_dir()]
        counts.append(f'{split}:{sum(len(os.listdir(folder)) for folder in classes)}/{len(classes)}')
    return ' '.join(counts)
