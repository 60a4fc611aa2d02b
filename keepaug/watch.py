"""A run in TensorBoard: an epoch's numbers, and a contact sheet of what the augmentations did (`--log-tensorboard`)."""
from collections.abc import Mapping
from typing import Any

import numpy as np
from timm.data.loader import adapt_to_chs
from timm.task import TrainingTask

from keepaug.engine.loop import LoopSettings
from keepaug.engine.seeding import preserved_streams
from keepaug.engine.task import AugmentedTask
from keepaug.preview import Record, bare_model, class_names, draw_sheet, label_captions, measure, run_steps

IMAGES = 8  # on a sheet


class Watch:
    """Writes what happens in a run to its folder, for `tensorboard --logdir`.

    The sheet shows the last training batch of an epoch on its way through the augmentations once more, with draws of
    its own: the run's random streams, weights and statistics stay what they are without.

    Args:
        folder: Folder of the run.
        task: Task of the run.
        dataset: Training set, for the names of the classes.
        data_config: `mean` and `std` of the images.
        settings: Device and precision.
        smoothing: Label smoothing, left out of the captions.
        seed: The sheets' draws are the same at each epoch.
    """

    def __init__(
            self,
            folder: str,
            task: TrainingTask,
            dataset,
            data_config: Mapping[str, Any],
            settings: LoopSettings,
            smoothing: float = 0.,
            seed: int = 0,
    ):
        from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(folder)
        self.task = task if isinstance(task, AugmentedTask) else None
        if self.task is not None:
            self.task.watched = True
        self.names = class_names(dataset)
        self.data_config = data_config
        self.settings = settings
        self.smoothing = smoothing
        self.seed = seed

    def log(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Writes an epoch's numbers, and its sheet where augmentations of ours are on.

        Raises:
            OSError: The folder cannot be written.
        """
        try:
            self._write(epoch, values)
        except OSError as error:
            raise OSError(
                f'The TensorBoard log in {self.writer.log_dir} cannot be written ({error.strerror}); what was saved '
                'before stays as it is, mend the folder and continue with --resume.') from error

    def _write(self, epoch: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, epoch)
        if self.task is not None and self.task.received is not None:
            self._show(epoch)
        self.writer.flush()

    def _show(self, epoch: int) -> None:
        x, target = self.task.received
        rows = min(IMAGES, len(x) // self.task.rows_per_sample)
        with preserved_streams(self.settings.device, self.seed), self.settings.precision.autocast():
            steps, labels = run_steps(self.task.augment.augments, x, target, rows, bare_model(self.task))
        if labels.ndim == 2:
            labels = (labels - self.smoothing / labels.shape[1]) / (1. - self.smoothing)
        mean, std = (adapt_to_chs(self.data_config[name], x.shape[1]) for name in ('mean', 'std'))
        shares = [measure(step) for step in steps if step.mask is not None]
        for row in shares:
            if row.count:
                self.writer.add_scalar(f'saliency {row.deed}/{row.name}', row.full, epoch)
        record = Record(
            f'epoch {epoch}', x[:rows], steps, list(label_captions(labels, self.names)), mean, std)
        sheet = draw_sheet(record, shares)
        self.writer.add_image('augmentations', np.asarray(sheet), epoch, dataformats='HWC')


def open_watch(args, output_dir: str, task: TrainingTask, dataset, data_config: Mapping[str, Any],
               settings: LoopSettings) -> Watch | None:
    """The watch of `--log-tensorboard`; None without the flag."""
    if not getattr(args, 'log_tensorboard', False):
        return None
    return Watch(output_dir, task, dataset, data_config, settings, args.smoothing or 0., args.seed)
