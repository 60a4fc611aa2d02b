"""One place for all that a run writes of its epochs."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from timm.data import Mixup
from timm.task import TrainingTask

from keepaug.measuring.risks import NoRisks, TrainingRisks, build_risks
from keepaug.record.results import describe_refinement, print_results
from keepaug.record.run_folder import open_summary
from keepaug.record.saver import Saver
from keepaug.record.summary import Summary, name_metrics
from keepaug.record.tensorboard import TensorBoard
from keepaug.record.watch import NoWatch, Watch, build_watch
from keepaug.record.weights_and_biases import open_wandb
from keepaug.training.loop import LoopSettings
from keepaug.training.phases import Phases
from keepaug.training.ranking import Ranking

_logger = logging.getLogger('train')

Metrics = Mapping[str, float]


class Sink(Protocol):
    """Where an epoch's numbers go."""

    def write(
        self,
        row: Mapping[str, Any],
        scalars: Mapping[str, float],
        pictures: Mapping[str, np.ndarray],
    ) -> None:
        """Writes an epoch.

        Args:
            row: Its row of `summary.csv`, which holds its number as `epoch`.
            scalars: Numbers beside the row, by name.
            pictures: Pictures, uint8 (H, W, 3), by name.

        Raises:
            OSError: There is no room for it.
        """


class Recorder:
    """Records epochs: what cannot be had again first, which is the checkpoint, and what may fail or take long last.

    Args:
        saver: Writes checkpoints.
        summary: The run's `summary.csv`.
        sinks: Where numbers go besides.
        ranking: Ranks epochs.
        phases: Phases of the run.
        milestones: Numbers of completed epochs after which a checkpoint is kept for good.
        risks: The risks on training images, for the row.
        watch: What is measured and drawn beside the row.
        task: Task of the run.
        mixup_fn: Stock's mixing on the device, or None.
        start_epoch: Epoch the run starts with.
    """

    def __init__(
        self,
        saver: Saver,
        summary: Summary,
        sinks: Sequence[Sink],
        ranking: Ranking,
        phases: Phases,
        milestones: Sequence[int],
        risks: TrainingRisks | NoRisks,
        watch: Watch | NoWatch,
        task: TrainingTask,
        mixup_fn: Mixup | None = None,
        start_epoch: int = 0,
    ):
        self.saver = saver
        self.summary = summary
        self.sinks = sinks
        self.ranking = ranking
        self.phases = phases
        self.milestones = milestones
        self.risks = risks
        self.watch = watch
        self.task = task
        self.mixup_fn = mixup_fn
        self.start_epoch = start_epoch
        self.results: list[dict[str, Any]] = []

    def record(self, epoch: int, train_metrics: Metrics, eval_metrics: Metrics, metric: float, lr: float) -> None:
        """Saves an epoch, then writes and measures what is told of it.

        Args:
            epoch: Its number.
            train_metrics: What training reports.
            eval_metrics: What validation reports; empty without one.
            metric: What ranks it.
            lr: Mean learning rate of the epoch.

        Raises:
            OSError: The run's folder cannot be written.
            ValueError: Its summary was damaged while the run went on.
        """
        row: dict[str, Any] = name_metrics(epoch, train_metrics, eval_metrics, lr)
        if self.phases.refined or self.risks.names:
            row['phase'] = self.phases.name(epoch)
        self.saver.save_checkpoint(epoch, metric, row)
        if not math.isfinite(metric):
            _logger.warning(f'The loss or the metric of epoch {epoch} is not finite: its checkpoint ranks last.')
        if epoch + 1 in self.milestones:
            self.saver.save_milestone(epoch + 1)
        self.results.append({'epoch': epoch, 'train': train_metrics, 'validation': eval_metrics})
        self._publish(row)

    def incomplete_epoch(self) -> int | None:
        """The epoch that was saved by a run that ended before all was told of it, to be completed; None if all was."""
        row = self.saver.row
        if row is None or row['epoch'] >= self.start_epoch:
            return None
        written = self.summary.row(row['epoch'])
        names = (*row, *(self.risks.names if 'phase' in row else ()))  # without phases it was another kind of run
        return None if all(written.get(name) for name in names) else row['epoch']

    def complete(self) -> None:
        """Tells what `incomplete_epoch` lacks; the task augments as it did in that epoch."""
        if self.saver.row is not None:
            self._publish(self.saver.row)

    def _publish(self, row: dict[str, Any]) -> None:
        self.summary.write(row)
        if self.risks.names:
            row = {**row, **self.risks.measure(self.task, self.mixup_fn)}
            self.summary.write(row)
        scalars, pictures = self.watch.measure(row['epoch'])
        if of_row := {name: scalars.pop(name) for name in self.watch.columns if name in scalars}:
            row = {**row, **of_row}
            self.summary.write(row)
        for sink in self.sinks:
            sink.write(row, scalars, pictures)

    def save_unfinished(self, last_update: tuple[int, int] | None) -> None:
        """Saves an epoch that ends with an update, where `--recovery-interval` asks for such files."""
        self.saver.save_unfinished(last_update)

    def finish(self) -> None:
        """Tells what came of the run: in the log, and as JSON on stdout."""
        if self.saver.best_metric is not None:
            _logger.info(f'*** Best metric: {self.saver.best_metric} (epoch {self.saver.best_epoch})')
        if self.phases.refined and (change := describe_refinement(self.summary.rows(), self.phases, self.ranking)):
            _logger.info(f'*** Refinement, {change}')
        print_results(self.results, self.ranking)


class NoRecorder:
    """What the other processes of a run have: they leave nothing behind."""

    saver = None

    def incomplete_epoch(self) -> None:
        return None

    def complete(self) -> None:
        pass

    def record(self, epoch: int, train_metrics: Metrics, eval_metrics: Metrics, metric: float, lr: float) -> None:
        pass

    def save_unfinished(self, last_update: tuple[int, int] | None) -> None:
        pass

    def finish(self) -> None:
        pass


def open_recorder(
    args,
    saver: Saver,
    ranking: Ranking,
    phases: Phases,
    task: TrainingTask,
    mixup_fn: Mixup | None,
    loader_train,
    dataset_train,
    data_config: dict[str, Any],
    settings: LoopSettings,
    start_epoch: int,
) -> Recorder:
    """The recorder of a run, which writes to the saver's folder.

    Args:
        args: Options.
        saver: Writes checkpoints.
        ranking: Ranks epochs.
        phases: Phases of the run.
        task: Task of the run.
        mixup_fn: Stock's mixing on the device, or None.
        loader_train: Training batches.
        dataset_train: Training set.
        data_config: How images enter the model.
        settings: How the run brings batches to the device.
        start_epoch: Epoch the run starts with.
    """
    folder = saver.checkpoint_dir
    sinks: list[Sink] = [TensorBoard(folder, start_epoch)] if args.log_tensorboard else []
    sinks += open_wandb(args, folder)
    return Recorder(
        saver,
        open_summary(folder),
        sinks,
        ranking,
        phases,
        args.save_epochs,
        risks=build_risks(args, loader_train, data_config, settings.forward),
        watch=build_watch(args, task, dataset_train, data_config, settings),
        task=task,
        mixup_fn=mixup_fn,
        start_epoch=start_epoch,
    )
