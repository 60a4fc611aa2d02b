"""The folder of a run: made before the first epoch, never mixed with another run."""

import logging
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import torch
from timm.models import safe_model_name

from keepaug.console.processes import is_first_process
from keepaug.files import locks
from keepaug.files.checkpoints import LAST, newest_epoch
from keepaug.files.drafts import whole_file
from keepaug.files.outputs import check_output_folder, explained_output
from keepaug.record.summary import Summary

Outcome = TypeVar('Outcome')

_logger = logging.getLogger('train')

# What a sentence calls the folder, and the way out where it cannot be written.
NAMED = ('The output folder', 'choose another with --output')

# Records name images, and the name of a file may be no text in any encoding.
NAMES = 'surrogateescape'


def run_folder(args, name: str = '') -> str:
    """The folder of a run: `--experiment` or else `name`, in that of all runs."""
    return os.path.join(args.output or './output/train', args.experiment or name)


def check_output(args) -> None:
    """Says before anything is built that the run's folder cannot be made, as far as the folders above it tell.

    The first process alone writes, and on several machines it may be alone in having the place to.

    Raises:
        ValueError: One of them is a file, or may not be written.
    """
    if is_first_process():
        check_output_folder(run_folder(args), *NAMED)


def hold_folder(args) -> None:
    """Holds the run's folder from before it is read, where it has a name and exists; all processes call this.

    Raises:
        ValueError: Another run holds the folder, or it cannot be written.
    """
    if args.experiment:
        _by_the_first(args, lambda: _hold_existing(run_folder(args)))


def open_output_dir(
    args, args_text: str, data_config: dict, start_epoch: int, records: Mapping[str, str] | None = None
) -> str:
    """Makes and holds the run's folder, with `args.yaml` in it and a `summary.csv` that ends before `start_epoch`.

    All processes call this, the first one writes. What is refused is refused before anything is written.

    Args:
        args: Options.
        args_text: Text of `args.yaml`.
        data_config: How images enter the model.
        start_epoch: Epoch the run starts with.
        records: Texts, by the names of their files, that belong to a run from its start; asked of the first process.

    Raises:
        ValueError: Another run holds the folder, it cannot be written, or the run that is resumed left other records.
    """
    folder = _by_the_first(args, lambda: _open_output_dir(args, args_text, data_config, start_epoch, records or {}))
    if args.rank:
        locks.join_folder(folder)
    return folder


def _open_output_dir(args, args_text: str, data_config: dict, start_epoch: int, records: Mapping[str, str]) -> str:
    _compare_records(args, records)
    if args.experiment:
        folder = run_folder(args)
    else:
        folder = _make_new(
            run_folder(
                args,
                '-'.join(
                    [
                        datetime.now().strftime('%Y%m%d-%H%M%S'),
                        safe_model_name(args.model),
                        str(data_config['input_size'][-1]),
                    ]
                ),
            )
        )
    _hold(folder)
    if not continues(args, folder):
        _warn_of_another_run(folder)
    with explained_output(folder, *NAMED):
        with whole_file(os.path.join(folder, 'args.yaml')) as draft, open(draft, 'w') as file:
            file.write(args_text)
        for name, text in records.items():
            with whole_file(os.path.join(folder, name)) as draft, open(draft, 'w', newline='', errors=NAMES) as file:
                file.write(text)
        _trim_summary(folder, start_epoch)
    return folder


def _compare_records(args, records: Mapping[str, str]) -> None:
    """Refuses to go on with a run that left other records."""
    for name, text in records.items() if args.resume else ():
        former = os.path.join(os.path.dirname(args.resume), name)
        if not os.path.isfile(former):
            continue
        with open(former, newline='', errors=NAMES) as file:
            if file.read() != text:
                raise ValueError(
                    f'--resume {args.resume} continues a run that had another {former}: give the data and the --seed '
                    'of that run, and its flags.'
                )


def _make_new(folder: str) -> str:
    """Makes a folder that was not there, with a number behind its name where another run took the name first."""
    with explained_output(folder, *NAMED):
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        number = 0
        while True:
            name = f'{folder}-{number}' if number else folder
            try:
                os.mkdir(name)
                return name
            except FileExistsError:
                number += 1


def _hold_existing(folder: str) -> None:
    if os.path.isdir(folder):
        _hold(folder)


def _hold(folder: str) -> None:
    with explained_output(folder, *NAMED):
        os.makedirs(folder, exist_ok=True)
        locks.hold_folder(folder)


def _by_the_first(args, act: Callable[[], Outcome]) -> Outcome:
    """Lets the first process act, and all of them know what it got, or why it was refused."""
    if not args.distributed:
        return act()
    outcome: list[Any] = [None, None]
    if args.rank == 0:
        try:
            outcome[0] = act()
        except ValueError as error:
            outcome[1] = str(error)
    torch.distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    return outcome[0]


def continues(args, folder: str) -> bool:
    """Whether a run goes on in the folder it is resumed from."""
    return bool(args.resume) and os.path.realpath(os.path.dirname(args.resume)) == os.path.realpath(folder)


def _warn_of_another_run(folder: str) -> None:
    """Says, as nothing else does, that a run is about to be overwritten."""
    last = os.path.join(folder, LAST)
    last = last if os.path.exists(last) else newest_epoch(folder)
    if last:
        _logger.warning(
            f'{folder} holds another run, which this one overwrites: give --resume {last} to continue it, or another '
            '--experiment to keep it.'
        )


def open_summary(folder: str) -> Summary:
    """The summary of the run in a folder."""
    return Summary(os.path.join(folder, 'summary.csv'))


def _trim_summary(folder: str, start_epoch: int) -> None:
    """Drops the rows that will be written anew."""
    summary = open_summary(folder)
    dropped = summary.drop_from(start_epoch)
    if dropped:
        _logger.info(
            f'Dropping {dropped} rows at or after epoch {start_epoch} from {summary.path}'
            + (' (new run into an existing output dir).' if start_epoch == 0 else '.')
        )
