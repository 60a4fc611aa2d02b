"""Writing checkpoints."""

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils import CheckpointSaver, checkpoint_saver, natural_key
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from keepaug.console.errors import first_line
from keepaug.console.logs import muted
from keepaug.files.checkpoints import LAST
from keepaug.files.drafts import remove_file, unwritable
from keepaug.record.exact_state import StockResume
from keepaug.record.history import find_strange
from keepaug.record.kept_maps import NoMaps
from keepaug.record.run_folder import continues
from keepaug.training.early_exit_task import checkpoint_optimizer
from keepaug.training.ranking import Ranking

_logger = logging.getLogger('train')

# How torch's writer says that it could not write.
UNWRITTEN = re.compile('inline_container|iostream error|Parent directory')
PROBE_BYTES = 2**20  # a disk that refused some of a checkpoint has less room


class Saver(CheckpointSaver):
    """timm's saver, which here also ends in a sentence when the output folder cannot be written.

    timm writes each checkpoint to a temporary file and renames it, so what was saved before stays whole. Here no name
    is ever without its file in between, either: a run may be killed at any moment. An epoch whose metric is not finite
    ranks behind all others and is never the best.

    Args:
        durable: Wait until a checkpoint is on the disk before it takes its name, which is then true after a power cut.
        recovers: Whether a run that ends within an epoch leaves a recovery file.
        maps: What each checkpoint goes on with beside its own contents.

    Attributes:
        row: The row of `summary.csv` of the epoch that was saved last, here or before the run was resumed. Checkpoints
            hold it with the history, which is what stock, too, resumes a folder from; stock reads no other names there.
    """

    def __init__(self, *args, durable: bool = False, recovers: bool = False, maps: NoMaps | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.maps = maps or NoMaps()
        self.durable = durable
        self.recovers = recovers
        self.row: dict[str, Any] | None = None
        self._metric: float | None = None  # of the epoch that is being saved
        self._is_redone = False  # what follows the writing of a checkpoint that is there already
        self._last_epoch = -1
        self._last_is_good: bool | None = None

    def save_checkpoint(
        self,
        epoch: int,
        metric: float | None = None,
        row: dict[str, Any] | None = None,
    ) -> tuple[float | None, int | None]:
        """Saves an epoch as `last.pth.tar` and, by its metric, among the best.

        Args:
            epoch: Its number.
            metric: What ranks it.
            row: Its row of `summary.csv`.

        Returns:
            The best metric and its epoch.
        """
        self.row, self._metric = row, metric
        self._last_is_good = _finite(metric) is not None
        if not self._is_redone:
            with self._explained(os.path.join(self.checkpoint_dir, f'tmp{self.extension}')):
                self.maps.write(self.checkpoint_dir, epoch)
        try:
            best = super().save_checkpoint(epoch, _finite(metric))
        finally:
            self._last_epoch, self._metric = epoch, None
        self.maps.remove_older(self.checkpoint_dir)
        return best

    def finish_saving(self, history: dict[str, Any]) -> None:
        """Takes over the history in `last.pth.tar`, and does what follows its writing, which a kill may have cut off.

        Raises:
            ValueError: It holds what no saver writes.
        """
        _refuse_strange(history)
        epoch, metric = history['pending']
        with muted(checkpoint_saver):  # which tells of the history before it is whole
            self.load_state_dict({**history, 'pending': (None, None)})
            self._is_redone = True
            self.save_checkpoint(epoch, metric, self.row)
            self._is_redone = False
        _logger.info(
            f'Restored checkpoint history ({len(self.checkpoint_files)} files), best metric {self.best_metric} '
            f'(epoch {self.best_epoch}).'
        )

    def save_unfinished(self, last_update: tuple[int, int] | None) -> None:
        """Saves an epoch that is not to be finished in a recovery file; no collective is called.

        Args:
            last_update: Epoch and number of the last update; None where weights are between two.
        """
        if self.recovers and last_update is not None and last_update[0] > self._last_epoch:
            self.save_recovery(*last_update)
            _logger.info(
                f'Saved the training since the last checkpoint as {self.curr_recovery_file}. A run resumed from it '
                'begins with the next epoch.'
            )

    @property
    def diverged(self) -> bool:
        """Whether the epoch that was saved last has a loss or a metric that is not finite."""
        return self._last_is_good is False

    def last_good(self) -> str:
        """The last checkpoint whose metric is finite, as far as they were kept; empty if there is none."""
        last = os.path.join(self.checkpoint_dir, LAST)
        if self._last_is_good and os.path.exists(last):
            return last
        ranked = [path for path, metric in self.checkpoint_files if metric is not None and os.path.exists(path)]
        return max(ranked, key=natural_key, default='')

    def state_dict(self, epoch: int | None = None, metric: float | None = None) -> dict[str, Any]:
        state = super().state_dict(epoch, _finite(metric))
        return state if self.row is None else {**state, 'row': self.row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a history; what is not finite in it, as timm writes it, ranks last and is no longer the best.

        Raises:
            ValueError: It holds what no saver writes, such as a file that is none of its own.
        """
        _refuse_strange(state_dict)
        epoch, metric = state_dict.get('pending', (None, None))
        files = [(name, _finite(metric)) for name, metric in state_dict.get('checkpoint_files', ())]
        best = _finite(state_dict.get('best_metric'))
        row = state_dict.get('row')
        self.row = row if isinstance(row, dict) and isinstance(row.get('epoch'), int) else None
        super().load_state_dict(
            {
                **state_dict,
                'checkpoint_files': files,
                'pending': (epoch, _finite(metric)),
                'best_metric': best,
                'best_epoch': None if best is None else state_dict['best_epoch'],
            }
        )

    def _replace(self, src: str, dst: str) -> None:
        if not self._is_redone:
            os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        if os.path.exists(dst) and not os.path.islink(dst) and os.path.samefile(src, dst):
            return
        draft = f'{dst}.tmp'
        with self._explained(draft):
            super()._duplicate(src, draft)
        os.replace(draft, dst)

    def _save(self, save_path: str, epoch: int, metric: Any = None) -> None:
        if self._is_redone:
            return
        with self._explained(save_path):
            super()._save(save_path, epoch, self._metric)  # where it is not finite, the ranking knows of none
            if self.durable:
                with open(save_path, 'rb') as file:
                    os.fsync(file.fileno())

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Removes what was begun, and says in a sentence that there is no room for it if that is what ended it."""
        try:
            remove_file(path)  # left by a run that was killed, or a link that leads elsewhere
            yield
        except BaseException as error:
            reason = _why_unwritten(path, error)
            with suppress(OSError):
                remove_file(path)
            if not reason:
                raise
            folder = os.path.dirname(path)
            raise unwritable(f'A checkpoint in {folder}', folder, reason) from error


def _refuse_strange(history: dict[str, Any]) -> None:
    strange = find_strange(history)
    if strange:
        raise ValueError(f'A history of checkpoints holds {strange}: no run can continue from it.')


def _finite(metric: float | None) -> float | None:
    return metric if metric is not None and math.isfinite(metric) else None


def _why_unwritten(path: str, error: BaseException) -> str:
    """Why a file could not be written to its end, as the system calls it; empty where it is not that what happened."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    if not (isinstance(error, RuntimeError) and UNWRITTEN.search(str(error))):
        return ''
    # torch's writer keeps it to itself; a file that has no room to grow tells it again.
    try:
        with open(path, 'ab') as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refusal:
        return refusal.strerror or first_line(refusal)
    return first_line(error)


def build_saver(
    args,
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    scaler,
    output_dir: str,
    exact: StockResume,
    ranking: Ranking,
) -> Saver:
    """The saver of a run; it takes over the history of the folder it is resumed in.

    Args:
        args: Options.
        task: Task of the run.
        optimizer: Its optimizer.
        scaler: Loss scaler, or None.
        output_dir: Folder of the run.
        exact: What is added to checkpoints.
        ranking: Ranks epochs.
    """
    saver = Saver(
        model=task.get_trainable_module(),
        task=exact.with_state(task),
        optimizer=checkpoint_optimizer(task, optimizer),
        args=args,
        amp_scaler=scaler,
        checkpoint_dir=output_dir,
        recovery_dir=output_dir,
        decreasing=ranking.decreasing,
        max_history=args.checkpoint_hist,
        durable=exact.durable,
        maps=exact.maps,
        recovers=bool(args.recovery_interval) and not args.exact_resume,
    )
    if continues(args, output_dir):
        _continue_history(saver, args.resume, args.save_epochs)
    return saver


def _continue_history(saver: Saver, path: str, milestones: Sequence[int]) -> None:
    held = load_checkpoint_metadata(path)
    epoch, _ = (held.get('saver') or {}).get('pending', (None, None))
    if epoch is None or os.path.basename(path) != LAST:
        saver.load_state_dict_from_checkpoint(path)
        return
    saver.finish_saving(held['saver'])
    if epoch + 1 in milestones:
        saver.save_milestone(epoch + 1)
