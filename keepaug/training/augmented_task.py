"""A task whose batches are augmented on the device."""

from typing import Any

import torch
from timm.task import TrainingTask

from keepaug.augment import Compose
from keepaug.training.criterion import target_aware
from keepaug.training.wrapped_task import WrappedTask, innermost_task


class AugmentedTask(WrappedTask):
    """A task whose training batches are augmented on device before the inner task sees them.

    Augmenting happens outside DDP and compile, in training mode only. Where labels are mixed, the innermost task gets a
    criterion that takes soft targets too. Everything else is the inner task's.

    Args:
        task: The task.
        augment: The augmentations.

    Raises:
        ValueError: Labels are mixed, and the task's criterion has no form for them.

    Attributes:
        augment: Callable `(x, target) -> (x, target)`; see `keepaug.augment`.
        watched: Whether the last training batch is kept.
        received: The augmented part of that batch as it came in: images, and targets where there are any.
        where: The places of its crops, where saliency is recycled.
    """

    def __init__(self, task: TrainingTask, augment: Compose):
        super().__init__(task)
        if any(each.mixes_labels for each in augment.augments):
            owner: Any = innermost_task(task)
            owner.criterion = target_aware(owner.criterion)
        self.augment = augment
        self.watched = False
        self.received: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self.where: torch.Tensor | None = None

    @property
    def rows_per_sample(self) -> int:
        """Rows of an incoming batch that are one sample; 2 where the augmentations take pairs."""
        return self.augment.rows_per_sample

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.training:
            return self.task(input, target)
        if self.watched:
            self.received = input, target
        return self.task(*self.augment(input, target))

    def augment_batch(self, input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A batch of the training loader's, augmented."""
        return self.augment(input, target)

    def augmented_part(self, input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The images of a batch that are augmented, with their targets where there are any."""
        return input, target

    def scalars(self) -> dict[str, float]:
        """What is told of the epoch beside its loss, of this process's batches, where they are watched."""
        return {}

    def set_progress(self, progress: float) -> None:
        self.augment.set_progress(progress)
        super().set_progress(progress)

    def stop_mixing(self) -> None:
        """Switches off what mixes labels."""
        for augment in self.augment.augments:
            augment.enabled = augment.enabled and not augment.mixes_labels
