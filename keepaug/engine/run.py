"""What surrounds the epochs: the output folder before, the record of results after."""
import csv
import glob
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import ModuleType
from typing import Any

from timm.models import safe_model_name
from timm.utils import get_outdir, summary, trim_summary, update_summary

from keepaug.engine.tracking import is_decreasing, tracked_metric

_logger = logging.getLogger('train')

LAST = 'last.pth.tar'  # as timm's saver calls it


def run_folder(args, name: str = '') -> str:
    """The folder of a run: `--experiment` or else `name`, in that of all runs."""
    return os.path.join(args.output or './output/train', args.experiment or name)


def open_output_dir(args, args_text: str, data_config: dict, start_epoch: int) -> str:
    """Makes the run's folder, with `args.yaml` in it and a `summary.csv` that ends before `start_epoch`.

    Raises:
        ValueError: The folder cannot be written.
    """
    folder = run_folder(args, '-'.join([
        datetime.now().strftime('%Y%m%d-%H%M%S'), safe_model_name(args.model), str(data_config['input_size'][-1])]))
    if not continues(args, folder):
        _warn_of_another_run(folder)
    try:
        output_dir = get_outdir(folder)
        with draft_of(os.path.join(output_dir, 'args.yaml')) as draft, open(draft, 'w') as file:
            file.write(args_text)
        _trim_summary(os.path.join(output_dir, 'summary.csv'), start_epoch)
    except OSError as error:
        raise ValueError(
            f'The output folder {folder} cannot be written ({error.strerror}); '
            f'choose another with --output.') from error
    return output_dir


def continues(args, folder: str) -> bool:
    """Whether a run goes on in the folder it is resumed from."""
    return bool(args.resume) and os.path.realpath(os.path.dirname(args.resume)) == os.path.realpath(folder)


def _warn_of_another_run(folder: str) -> None:
    """Says, as nothing else does, that a run is about to be overwritten."""
    last = os.path.join(folder, LAST)
    last = last if os.path.exists(last) else newest_epoch(folder)
    if last:
        _logger.warning(
            f'{folder} holds another run, which this one overwrites: to go on with it give --resume {last}, to keep it '
            'another --experiment.')


def newest_epoch(folder: str, without: str = '') -> str:
    """The whole checkpoint of the latest epoch that a folder holds beside `last.pth.tar`; empty if there is none.

    Args:
        folder: Folder of a run.
        without: A file that is known not to be whole, by any of its names.
    """
    epochs = {
        int(match[1]): path for path in glob.glob(os.path.join(glob.escape(folder), 'checkpoint-*.pth.tar'))
        if (match := re.search(r'-(\d+)\.pth\.tar$', path))
        and zipfile.is_zipfile(path)  # by its end
        and not (without and os.path.samefile(path, without))}
    return epochs[max(epochs)] if epochs else ''


def _trim_summary(filename: str, start_epoch: int) -> None:
    """Drops the rows that will be written anew."""
    before = _count_lines(filename)
    with draft_of(filename) as draft, muted(summary):  # which would tell of the draft
        trim_summary(draft, start_epoch)
    dropped = before - max(1, _count_lines(filename))
    if dropped > 0:
        _logger.info(
            f'Dropping {dropped} rows at or after epoch {start_epoch} from {filename}'
            + (' (new run into an existing output dir).' if start_epoch == 0 else '.'))


def _count_lines(filename: str) -> int:
    if not os.path.exists(filename):
        return 0
    with open(filename) as file:
        return sum(1 for _ in file)


@contextmanager
def muted(module: ModuleType) -> Iterator[None]:
    """Keeps what a module has to tell out of the log, warnings excepted."""
    logger = logging.getLogger(module.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def unwritable(what: str, folder: str, reason: str) -> OSError:
    """Says of a run's folder that it cannot be written; how the run can go on is said by the last lines of the log."""
    if not os.path.isdir(folder):
        return OSError(f'{what} cannot be written: {folder} is gone, and with it what was saved there.')
    return OSError(
        f'{what} cannot be written ({reason}): make room or mend the folder; what was saved before stays whole.')


@contextmanager
def draft_of(path: str) -> Iterator[str]:
    """A copy of a file to write to, which takes its place in one step: killed or without room, the file stays whole."""
    draft = f'{path}.tmp'
    try:
        if os.path.exists(path):
            shutil.copyfile(path, draft)
        elif os.path.exists(draft):  # left by a run that was killed
            os.unlink(draft)
        yield draft
        if os.path.exists(draft):
            os.replace(draft, path)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)


def name_metrics(
        train_metrics: Mapping[str, float],
        eval_metrics: Mapping[str, float],
        lr: float,
        extra: Mapping[str, Any],
) -> dict[str, Any]:
    """An epoch's values under the names of `summary.csv`."""
    return {
        **{f'train_{name}': value for name, value in train_metrics.items()},
        **{f'eval_{name}': value for name, value in eval_metrics.items()},
        'lr': lr,
        **extra,
    }


def write_summary(
        epoch: int,
        train_metrics: Mapping[str, float],
        eval_metrics: Mapping[str, float],
        filename: str,
        lr: float,
        extra: Mapping[str, Any],
        log_wandb: bool = False,
) -> None:
    """Adds an epoch's row to `summary.csv`: stock's columns, and those of `extra`, if any, behind them.

    Rows that a run without `extra` left in the file keep their values; what they lack stays empty.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        with draft_of(filename) as draft:
            _add_row(epoch, train_metrics, eval_metrics, draft, lr, extra, log_wandb)
    except OSError as error:
        raise unwritable(filename, os.path.dirname(filename), error.strerror) from error


def _add_row(
        epoch: int,
        train_metrics: Mapping[str, float],
        eval_metrics: Mapping[str, float],
        filename: str,
        lr: float,
        extra: Mapping[str, Any],
        log_wandb: bool,
) -> None:
    if not extra:
        update_summary(epoch, train_metrics, eval_metrics, filename, lr=lr, log_wandb=log_wandb)
        return
    row = {'epoch': epoch, **name_metrics(train_metrics, eval_metrics, lr, extra)}
    if log_wandb:
        import wandb
        wandb.log(row)
    rows = []
    if os.path.exists(filename):
        with open(filename, newline='') as file:
            rows = list(csv.DictReader(file))
    columns = list(dict.fromkeys([*(rows[0] if rows else ()), *row]))
    with open(filename, 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows([*rows, row])


def last_epoch(args, epochs: int) -> int:
    """The number of epochs after which the run ends: all of them, or those of `--stop-epoch`.

    Args:
        args: Options.
        epochs: Epochs of the whole schedule.

    Raises:
        ValueError: `--stop-epoch` lies beyond the schedule.
    """
    if args.stop_epoch is not None and args.stop_epoch > epochs:
        raise ValueError(f'--stop-epoch {args.stop_epoch} lies beyond the {epochs} epochs of the run: lower it.')
    return args.stop_epoch or epochs


def is_evaluated(args, completed: int, last: int) -> bool:
    """Whether validation, a summary row and a checkpoint are due after so many completed epochs."""
    return completed % args.val_interval == 0 or completed == last or completed in args.save_epochs


def print_results(results: list[dict], args) -> None:
    """Writes the ten best epochs to stdout as JSON, worst first, behind a line `--result`."""
    metric = tracked_metric(args)
    best_last = sorted(
        results, key=lambda result: (result['validation'] or result['train'])[metric],
        reverse=is_decreasing(args))[-10:]
    print(f'--result\n{json.dumps(best_last, indent=4)}', flush=True)
