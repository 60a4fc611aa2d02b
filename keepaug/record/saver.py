"""Writing checkpoints."""
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils import CheckpointSaver, checkpoint_saver
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from keepaug.console.errors import first_line
from keepaug.console.logs import muted
from keepaug.files.checkpoints import LAST
from keepaug.files.drafts import unwritable
from keepaug.record.run_folder import continues
from keepaug.training.early_exit_task import checkpoint_optimizer
from keepaug.training.ranking import is_decreasing

_logger = logging.getLogger('train')

PROBE = 2 ** 20  # bytes; a disk that refused some of a checkpoint has less room


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
