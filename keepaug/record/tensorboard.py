"""A run in TensorBoard, and in Weights & Biases beside it (`--log-tensorboard`).

Each epoch's numbers, and a contact sheet of what the augmentations did. The scalars:

- those of the row of `summary.csv`, under its names: `train_loss`, `eval_top1`, `lr` ...
- `clean_train_top1` (`_top5`, `_loss`; of several labels `_map` ...): the model in training on `--watch-samples`
  training images, the same in every epoch, read as validation images are.
- `saliency_kept/KeepCut`, and likewise of each augmentation that draws a region: the share of the saliency of the
  images it received that it left untouched, which is what lies outside the region removed or replaced; for KeepPaste
  what lies inside the region put back, as the policy has changed the rest. Saliency is that of the full pass, whatever
  the region was drawn by, so that blind controls compare. Mean over those of up to 64 images of the epoch's last batch
  that have a region; absent in epochs where none has: the augmentation is off, or mixup was drawn for the batch.
- `images_per_second`: of the epoch's training, all processes together, validation left out.
"""
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from timm.data.loader import adapt_to_chs
from timm.task import TrainingTask

from keepaug.data.seeding import preserved_streams
from keepaug.files.drafts import unwritable
from keepaug.measuring.clean_accuracy import CleanAccuracy, build_clean_accuracy
from keepaug.measuring.regions import Shares, Step, bare_model, measure, run_steps
from keepaug.pictures.record import Record, class_names, draw_sheet, label_captions
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.loop import LoopSettings

_logger = logging.getLogger('train')

IMAGES = 8  # on a sheet
MEASURED = 64  # whose saliency is measured


class Watch:
    """Writes what happens in a run to its folder, for `tensorboard --logdir`.

    The sheet shows the last training batch of an epoch on its way through the augmentations once more, with draws of
    its own: the run's random streams, weights and statistics stay what they are without.

    Args:
        folder: Folder of the run.
        task: Task of the run.
        dataset: Training set, for the names of the classes.
        data_config: `mean` and `std` of the images.
        settings: Device and precision, and what counts the images.
        clean: Measures the clean training accuracy; None to leave it out.
        wandb: Log to the open run of Weights & Biases too.
        smoothing: Label smoothing, left out of the captions.
        seed: The sheets' draws follow from it and the epoch.
        start_epoch: Epoch the run starts with; what the folder holds of it and of later ones is no longer shown.
    """

    def __init__(
            self,
            folder: str,
            task: TrainingTask,
            dataset,
            data_config: Mapping[str, Any],
            settings: LoopSettings,
            clean: CleanAccuracy | None = None,
            wandb: bool = False,
            smoothing: float = 0.,
            seed: int = 0,
            start_epoch: int = 0,
    ):
        from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(folder, purge_step=start_epoch)
        self.task = task
        self.augmented = isinstance(task, AugmentedTask)
        if self.augmented:
            task.watched = True
        self.names = class_names(dataset)
        self.data_config = data_config
        self.settings = settings
        self.clean = clean
        self.wandb = wandb
        self.smoothing = smoothing
        self.seed = seed

    def log(self, epoch: int, row: Mapping[str, Any]) -> None:
        """Writes an epoch's numbers, and its sheet where augmentations of ours are on.

        Args:
            epoch: Its number.
            row: Its row of `summary.csv`.

        Raises:
            OSError: The folder cannot be written.
        """
        scalars = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        scalars['images_per_second'] = self.settings.progress.images_per_second
        if self.clean is not None:
            scalars |= self.clean.measure(self.task)
        sheet = None
        if self.augmented and self.task.received is not None:
            steps, captions = self._augment_again(epoch)
            shares = [measure(step) for step in steps if step.mask is not None]
            scalars |= {f'saliency_kept/{share.name}': share.kept for share in shares if share.count}
            sheet = self._draw(epoch, steps, captions, shares)
        self._write(epoch, scalars, sheet)
        if self.wandb:
            import wandb
            pictures = {} if sheet is None else {'augmentations': wandb.Image(sheet)}
            wandb.log({'epoch': epoch, **row, **scalars, **pictures})  # at once, so that it is one step

    def _write(self, epoch: int, scalars: Mapping[str, float], sheet: np.ndarray | None) -> None:
        try:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, epoch)
            if sheet is not None:
                self.writer.add_image('augmentations', sheet, epoch, dataformats='HWC')
            self.writer.flush()
        except OSError as error:
            folder = self.writer.log_dir
            raise unwritable(f'The TensorBoard log in {folder}', folder, error.strerror) from error

    def _augment_again(self, epoch: int) -> tuple[list[Step], list[str]]:
        """What the augmentations do to the last batch, and the labels that come out."""
        x, target = self.task.received
        rows = min(MEASURED, len(x) // self.task.rows_per_sample)
        # Other draws in each epoch: one for the whole batch, as between mixup and CutMix, would fall alike for ever.
        with preserved_streams(self.settings.device, self.seed + epoch), self.settings.precision.autocast():
            steps, labels = run_steps(self.task.augment.augments, x, target, rows, bare_model(self.task))
        if labels.ndim == 2:
            labels = (labels - self.smoothing / labels.shape[1]) / (1. - self.smoothing)
        return steps, list(label_captions(labels, self.names))

    def _draw(self, epoch: int, steps: list[Step], captions: list[str], shares: list[Shares]) -> np.ndarray:
        """The sheet, uint8 (H, W, 3)."""
        x = self.task.received[0][:min(IMAGES, len(captions))]
        mean, std = (adapt_to_chs(self.data_config[name], x.shape[1]) for name in ('mean', 'std'))
        steps, captions = [step.first(len(x)) for step in steps], captions[:len(x)]
        return np.asarray(draw_sheet(Record(f'epoch {epoch}', x, steps, captions, mean, std), shares))


def open_watch(
        args,
        output_dir: str,
        task: TrainingTask,
        dataset,
        data_config: dict[str, Any],
        settings: LoopSettings,
        start_epoch: int,
) -> Watch | None:
    """The watch of `--log-tensorboard`; None without the flag."""
    if not args.log_tensorboard:
        return None
    if not isinstance(task, AugmentedTask):
        _logger.info(
            'TensorBoard gets no sheet and no saliency: no augmentation of keepaug is on; --save-images shows what the '
            'loader gives.')
    clean = build_clean_accuracy(args, dataset, data_config, settings)
    return Watch(
        output_dir, task, dataset, data_config, settings, clean, wandb=args.log_wandb, smoothing=args.smoothing or 0.,
        seed=args.seed, start_epoch=start_epoch)
