"""A task whose batches are augmented on the device."""
import torch
from timm.loss import (
    AsymmetricLossMultiLabel,
    BinaryCrossEntropy,
    DistributionBalancedLoss,
    LabelSmoothingCrossEntropy,
    PolyBinaryCrossEntropy,
    PolyCrossEntropy,
    SoftTargetCrossEntropy,
)
from timm.task import TrainingTask

from keepaug.augment import Compose
from keepaug.training.wrapped_task import WrappedTask, innermost_task

# Criteria that take soft targets as they are; the last three are those of several labels per image.
SOFT_CRITERIA = (
    SoftTargetCrossEntropy, BinaryCrossEntropy, PolyCrossEntropy,
    AsymmetricLossMultiLabel, PolyBinaryCrossEntropy, DistributionBalancedLoss,
)


def soft_target_form(criterion):
    """The criterion that takes soft targets in place of one that takes class indices.

    Smoothing is left to the mixer, which makes the targets.

    Raises:
        ValueError: The criterion has no soft-target form.
    """
    kind = type(criterion)
    if kind in SOFT_CRITERIA:
        return criterion
    if kind is LabelSmoothingCrossEntropy:
        return SoftTargetCrossEntropy()
    if kind is torch.nn.CrossEntropyLoss:
        return torch.nn.CrossEntropyLoss(weight=criterion.weight, reduction=criterion.reduction)
    raise ValueError(
        f'{kind.__name__} takes no mixed labels: choose --loss ce, bce or poly, or mix none.')


class AugmentedTask(WrappedTask):
    """A task whose training batches are augmented on device before the inner task sees them.

    Augmenting happens outside DDP and compile, in training mode only. Where labels come out mixed, the soft-target form
    of the inner criterion is applied. Everything else is the inner task's.

    Attributes:
        augment: Callable `(x, target) -> (x, target)`; see `keepaug.augment`.
        watched: Whether the last training batch is kept.
        received: That batch as it came in, images and targets.
    """

    def __init__(self, task: TrainingTask, augment: Compose):
        super().__init__(task)
        self.augment = augment
        self.watched = False
        self.received: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def rows_per_sample(self) -> int:
        """Rows of an incoming batch that are one sample; 2 where the augmentations take pairs."""
        return self.augment.rows_per_sample

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.training:
            return self.task(input, target)
        if self.watched:
            self.received = input, target
        input, mixed = self.augment(input, target)
        if mixed.ndim == target.ndim:
            return self.task(input, mixed)
        owner = innermost_task(self)
        criterion = owner.criterion
        owner.criterion = soft_target_form(criterion)
        try:
            return self.task(input, mixed)
        finally:
            owner.criterion = criterion

    def set_progress(self, progress: float) -> None:
        """Tells the augmentations which share of the training, 0 to 1, is done."""
        self.augment.set_progress(progress)

    def stop_mixing(self) -> None:
        """Switches off what mixes labels."""
        for augment in self.augment.augments:
            augment.enabled = augment.enabled and not augment.mixes_labels
