"""What is measured and drawn of each epoch beside its row of `summary.csv` (`--log-tensorboard`).

A contact sheet of what the augmentations did, and scalars:

- `clean_train_top1` (`_top5`, `_loss`; of several labels `_map` ...): the model in training on `--watch-samples`
  training images, the same in every epoch, read as validation images are.
- `saliency_kept`, a column of `summary.csv` too: the share of the saliency of the images as they came in that still
  shows after all augmentations (`keepaug.measuring.regions.saliency_kept`). Saliency is that of the full pass, whatever
  regions were drawn by, so that blind controls compare. Mean over up to 64 images of the epoch's last batch; absent
  where no augmentation of keepaug is on, and in an epoch where all of them were blended by mixup.
- What the task tells of the epoch (`AugmentedTask.scalars`).
- `images_per_second`: of the epoch's training, all processes together, validation left out.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from timm.data.loader import adapt_to_chs
from timm.task import TrainingTask

from keepaug.data.classes import dataset_classes, name_classes
from keepaug.data.seeding import preserved_streams
from keepaug.measuring.clean_accuracy import CleanAccuracy, build_clean_accuracy
from keepaug.measuring.regions import Step, bare_model, measure, run_steps, saliency_kept
from keepaug.measuring.risks import without_smoothing
from keepaug.pictures.record import Record, draw_sheet, label_captions
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.loop import LoopSettings

_logger = logging.getLogger('train')

IMAGES = 8  # on a sheet
MEASURED = 64  # whose saliency is measured


class Watch:
    """Measures and draws what happens in a run.

    The sheet shows the last training batch of an epoch on its way through the augmentations once more, with draws of
    its own: the run's random streams, weights and statistics stay what they are without.

    Args:
        task: Task of the run.
        dataset: Training set, for the names of the classes.
        data_config: `mean` and `std` of the images.
        settings: Device and precision, and what counts the images.
        clean: Measures the clean training accuracy; None to leave it out.
        smoothing: Label smoothing, left out of the captions.
        seed: The sheets' draws follow from it and the epoch.

    Attributes:
        columns: Scalars that stand in `summary.csv` too.
    """

    columns = ('saliency_kept',)

    def __init__(
        self,
        task: TrainingTask,
        dataset,
        data_config: Mapping[str, Any],
        settings: LoopSettings,
        clean: CleanAccuracy | None = None,
        smoothing: float = 0.0,
        seed: int = 0,
    ):
        self.task = task
        self.augmented = isinstance(task, AugmentedTask)
        if isinstance(task, AugmentedTask):
            task.watched = True
        self.names = name_classes(dataset_classes(dataset))
        self.data_config = data_config
        self.settings = settings
        self.clean = clean
        self.smoothing = smoothing
        self.seed = seed

    def measure(self, epoch: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """An epoch's scalars by name, and its sheet, uint8 (H, W, 3), where augmentations of ours are on."""
        scalars, pictures = {}, {}
        if self.settings.progress.images_per_second:  # of an epoch that this process trained
            scalars['images_per_second'] = self.settings.progress.images_per_second
        if self.clean is not None:
            scalars |= self.clean.measure(self.task)
        if self.augmented:
            scalars |= self.task.scalars()
        if self.augmented and self.task.received is not None:
            steps, captions = self._augment_again(epoch)
            with self.settings.forward.autocast():
                kept = saliency_kept(steps, bare_model(self.task)) if steps else None
            if kept is not None:
                scalars['saliency_kept'] = kept
            pictures['augmentations'] = self._draw(epoch, steps, captions)
        return scalars, pictures

    def _augment_again(self, epoch: int) -> tuple[list[Step], list[str]]:
        """What the augmentations do to the last batch, and the labels that come out."""
        x, target = self.task.received
        rows = min(MEASURED, len(x) // self.task.augment.rows_per_sample)
        # Other draws in each epoch: one for the whole batch, as between mixup and CutMix, would fall alike for ever.
        with preserved_streams(self.settings.forward.device, self.seed + epoch), self.settings.forward.autocast():
            steps, labels = run_steps(
                self.task.augment.augments, x, target, rows, bare_model(self.task), self.task.where
            )
        if labels is not None:
            labels = without_smoothing(labels, self.smoothing)
        return steps, list(label_captions(labels, self.names, rows))

    def _draw(self, epoch: int, steps: list[Step], captions: list[str]) -> np.ndarray:
        """The sheet, uint8 (H, W, 3)."""
        shares = [share for step in steps if (share := measure(step)) is not None]
        x = self.task.received[0][: min(IMAGES, len(captions))]
        mean, std = (adapt_to_chs(self.data_config[name], x.shape[1]) for name in ('mean', 'std'))
        steps, captions = [step.first(len(x)) for step in steps], captions[: len(x)]
        return np.asarray(draw_sheet(Record(f'epoch {epoch}', x, steps, captions, mean, std), shares))


class NoWatch:
    """Nothing is measured beside the row."""

    columns = ()

    def measure(self, epoch: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        return {}, {}


def build_watch(
    args, task: TrainingTask, dataset, data_config: dict[str, Any], settings: LoopSettings
) -> Watch | NoWatch:
    """What `--log-tensorboard` measures."""
    if not args.log_tensorboard:
        return NoWatch()
    if not isinstance(task, AugmentedTask):
        _logger.info(
            'TensorBoard gets no sheet and no saliency, because no keepaug augmentation is on. --save-images shows '
            'what the loader gives.'
        )
    clean = build_clean_accuracy(args, dataset, data_config, settings.forward)
    return Watch(task, dataset, data_config, settings, clean, smoothing=args.smoothing or 0.0, seed=args.seed)
