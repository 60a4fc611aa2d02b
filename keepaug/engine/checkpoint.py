"""Checkpoints: reading them safely, resuming from them, writing them."""
import argparse
import logging
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.task import TrainingTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, checkpoint_saver
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from keepaug.engine.early_exit import checkpoint_optimizer, find_early_exit
from keepaug.engine.run import LAST, continues, muted, newest_epoch, run_folder, unwritable
from keepaug.engine.sentence import first_line
from keepaug.engine.tracking import is_decreasing

_logger = logging.getLogger('train')

PROBE = 2 ** 20  # bytes; a disk that refused some of a checkpoint has less room
# Where timm's scripts keep the running average of the weights, in the order in which timm looks for it.
AVERAGED = ('state_dict_ema', 'model_ema')


def check_checkpoint(path: str, flag: str) -> dict[str, Any]:
    """Says in a sentence why a file is no checkpoint, without running anything in it.

    Args:
        path: File to read.
        flag: The flag that named it, for the sentence.

    Returns:
        What it holds; nothing for formats that cannot hold code, which are left unread.

    Raises:
        ValueError: The file is missing, truncated, not a checkpoint, or would execute code.
    """
    if not os.path.isfile(path):
        raise ValueError(f'{flag} {path} does not exist; name a checkpoint file.')
    if path.endswith(('.safetensors', '.npz', '.npy')):
        return {}
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{flag} {path} is refused: it is no checkpoint, or holds more than tensors and plain values.') from error
    except Exception as error:  # whatever torch stumbles over in bytes that are no checkpoint
        raise ValueError(f'{flag} {path} cannot be read: it is truncated or no checkpoint{_instead(path)}.') from error
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise ValueError(f'{flag} {path} is no checkpoint: it holds a {type(checkpoint).__name__}, not named weights.')
    return checkpoint


def _instead(path: str) -> str:
    """The newest checkpoint of an epoch beside one that cannot be read, for the end of a sentence."""
    newest = newest_epoch(os.path.dirname(path), without=path)
    return f'; {newest} beside it is whole' if newest else ''


def find_resume(args) -> str:
    """The checkpoint to resume from; `auto` is the last one in the run's own folder, or none in a new folder."""
    if args.resume != 'auto':
        return args.resume
    last = os.path.join(run_folder(args), LAST)
    return last if os.path.exists(last) else ''


def resume(args, task: TrainingTask, optimizer: torch.optim.Optimizer, scaler) -> int:
    """Restores weights, and optimizer and scaler unless `--no-resume-opt`, and gives the epoch to start with.

    Raises:
        ValueError: The checkpoint cannot be read, or is of another model.
    """
    resumed_epoch = None
    if args.resume:
        held = check_checkpoint(args.resume, '--resume')
        _tell_early_head(held, task)
        try:
            resumed_epoch = resume_task_checkpoint(
                task,
                args.resume,
                optimizer=None if args.no_resume_opt else checkpoint_optimizer(task, optimizer),
                loss_scaler=None if args.no_resume_opt else scaler,
                log_info=args.rank == 0,
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(_mismatch(args, error)) from error
    if args.start_epoch is not None:
        return args.start_epoch
    return resumed_epoch or 0


def resume_ema(args, task: TrainingTask) -> None:
    """Restores averaged weights, or starts the average from the resumed plain ones where the file has none."""
    try:
        load_task_ema_checkpoint(task, args.resume)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(_mismatch(args, error)) from error


class Saver(CheckpointSaver):
    """timm's saver, which here also ends in a sentence when the output folder cannot be written.

    timm writes each checkpoint to a temporary file and renames it, so what was saved before stays whole. Here no name
    is ever without its file in between, either: a run may be killed at any moment.

    Args:
        durable: Wait until a checkpoint is on the disk before it takes its name, which is then true after a power cut.
    """

    def __init__(self, *args, durable: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.durable = durable
        self.written = False

    def take_up(self, path: str) -> None:
        """Takes up the history in `last.pth.tar`, and does what follows its writing, which a kill may have cut off."""
        history = load_checkpoint_metadata(path)['saver']
        epoch, metric = history['pending']
        with muted(checkpoint_saver):  # which tells of the history before it is whole
            self.load_state_dict({**history, 'pending': (None, None)})
            self.written = True
            self.save_checkpoint(epoch, metric)
            self.written = False
        _logger.info(
            f'Restored checkpoint history ({len(self.checkpoint_files)} files), best metric {self.best_metric} '
            f'(epoch {self.best_epoch}).')

    def _replace(self, src: str, dst: str) -> None:
        if not self.written:
            os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        if os.path.exists(dst) and os.path.samefile(src, dst):
            return
        draft = f'{dst}.tmp'
        with self._told(draft):
            super()._duplicate(src, draft)
        os.replace(draft, dst)

    def _save(self, save_path: str, epoch: int, metric: Any = None) -> None:
        if self.written:
            return
        with self._told(save_path):
            super()._save(save_path, epoch, metric)
            if self.durable:
                with open(save_path, 'rb') as file:
                    os.fsync(file.fileno())

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """Removes what was begun and says in a sentence that there is no room for it."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            reason = _why_unwritten(path, error)
            if os.path.lexists(path):
                os.unlink(path)
            folder = os.path.dirname(path)
            raise unwritable(f'A checkpoint in {folder}', folder, reason) from error


def _why_unwritten(path: str, error: Exception) -> str:
    """Why a file could not be written to its end, as the system calls it."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    # torch's writer keeps it to itself; a file that has no room to grow tells it again.
    try:
        with open(path, 'ab') as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refusal:
        return refusal.strerror
    return first_line(error)


def build_saver(
        args, task: TrainingTask, optimizer: torch.optim.Optimizer, scaler, output_dir: str, exact=None) -> Saver:
    """The saver of a run; it takes up the history of the folder it is resumed in.

    Args:
        args: Options.
        task: Task of the run.
        optimizer: Its optimizer.
        scaler: Loss scaler, or None.
        output_dir: Folder of the run.
        exact: What `--exact-resume` adds to checkpoints, or None.
    """
    saver = Saver(
        model=task.get_trainable_module(),
        task=task if exact is None else exact.mark(task),
        optimizer=checkpoint_optimizer(task, optimizer),
        args=args,
        amp_scaler=scaler,
        checkpoint_dir=output_dir,
        recovery_dir=output_dir,
        decreasing=is_decreasing(args),
        max_history=args.checkpoint_hist,
        durable=exact is not None,
    )
    if continues(args, output_dir):
        if exact is None or os.path.basename(args.resume) != LAST:
            saver.load_state_dict_from_checkpoint(args.resume)
            return saver
        saver.take_up(args.resume)
        if exact.completed in args.save_epochs:
            saver.save_milestone(exact.completed)
    return saver


def _tell_early_head(checkpoint: dict[str, Any], task: TrainingTask) -> None:
    """Says where a run goes on with or without the early head that the one before did not have, or had."""
    had, has = 'early_exit' in (checkpoint.get('task_state') or {}), find_early_exit(task) is not None
    if has and not had:
        _logger.info('The checkpoint holds no early head; it starts fresh.')
    elif had and not has:
        _logger.info('The early head of the checkpoint is left behind; --early-exit would take it along.')


def _mismatch(args, error: Exception) -> str:
    if isinstance(error, (KeyError, ValueError)):  # the optimizer; weights that do not fit are a RuntimeError
        return (
            f'--resume {args.resume} was written by another optimizer than --opt {args.opt} ({first_line(error)}); '
            'resume with its --opt, or with --no-resume-opt.')
    return (
        f'--resume {args.resume} does not fit --model {args.model} with {args.num_classes} classes '
        f'({first_line(error)}); resume with the flags of the run that wrote it.')
