"""Criteria of batches whose labels may be mixed."""

from collections.abc import Callable
from typing import Any

from timm.loss import (
    AsymmetricLossMultiLabel,
    BinaryCrossEntropy,
    DistributionBalancedLoss,
    LabelSmoothingCrossEntropy,
    PolyBinaryCrossEntropy,
    PolyCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor], Tensor]

# Criteria that take soft targets as they are; the last three are those of several labels per image.
SOFT_CRITERIA = (
    SoftTargetCrossEntropy,
    BinaryCrossEntropy,
    PolyCrossEntropy,
    AsymmetricLossMultiLabel,
    PolyBinaryCrossEntropy,
    DistributionBalancedLoss,
)


class TargetAwareCriterion(nn.Module):
    """A criterion by the kind of the target: one for class indices (B,), another for soft targets (B, K)."""

    def __init__(self, hard: Criterion, soft: Criterion):
        super().__init__()
        self.hard = hard
        self.soft = soft

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (self.hard if target.ndim == 1 else self.soft)(output, target)


def target_aware(criterion: Criterion) -> Criterion:
    """The criterion for class indices and soft targets alike; itself where it takes both.

    Raises:
        ValueError: It has no soft-target form.
    """
    soft = soft_target_form(criterion)
    return criterion if soft is criterion else TargetAwareCriterion(criterion, soft)


def soft_target_form(criterion: Criterion) -> Criterion:
    """The criterion that takes soft targets in place of one that takes class indices.

    Smoothing is left to the mixer, which makes the targets.

    Raises:
        ValueError: The criterion has no soft-target form.
    """
    kind: Any = type(criterion)
    if kind in (*SOFT_CRITERIA, TargetAwareCriterion):
        return criterion
    if kind is LabelSmoothingCrossEntropy:
        return SoftTargetCrossEntropy()
    if isinstance(criterion, nn.CrossEntropyLoss) and kind is nn.CrossEntropyLoss:
        return nn.CrossEntropyLoss(weight=criterion.weight, reduction=criterion.reduction)
    raise ValueError(f'{kind.__name__} takes no mixed labels: choose --loss ce, bce or poly, or mix none.')
