"""GridMask: squares removed at regular distances, blindly. A published baseline of selective cutting."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from keepaug.augment.base import BatchAugment, check_edge, draw_applied
from keepaug.augment.fill import fill_region
from keepaug.augment.ramp import Ramp
from keepaug.augment.registry import register_augment
from keepaug.functional import grid_mask
from keepaug.ranges import PIXELS, PROBABILITY, HyperParameterError, Range

# The paper's distances on ImageNet are from 96 px to the edge of the image, 224 px.
SMALLEST_SHARE = 96 / 224


@register_augment('grid-mask')
class GridMask(BatchAugment):
    """Sets squares in rows and columns to zero, of one size and at one distance in each image.

    Chen et al., GridMask Data Augmentation, 2020.

    Args:
        model: Not used.
        num_classes: Not used.
        smallest: Smallest distance from one square to the next in pixels; None for 96 / 224 of the shorter edge.
        largest: Largest distance; None for the shorter edge.
        keep: Share of the distance that lies between two squares, r in the paper; `2 r - r^2` of an image is kept.
        prob: Probability that an image is masked.
        ramp: Share of the training over which the probability rises linearly from 0, as `set_progress` tells; 0 for
            none (the paper's ImageNet: 0.8).

    `last`: `mask` bool (B, 1, H, W), True where removed.

    Raises:
        ValueError: A value is out of range, or the probability rises and was not told the progress.
    """

    ranges = {
        'smallest': PIXELS,
        'largest': PIXELS,
        'keep': Range(above=0, below=1),
        'prob': PROBABILITY,
        'ramp': PROBABILITY,
    }

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        smallest: int | None = None,
        largest: int | None = None,
        keep: float = 0.6,
        prob: float = 0.8,
        ramp: float = 0.0,
    ):
        super().__init__(model, num_classes)
        self.smallest = self.check('smallest', smallest)
        self.largest = self.check('largest', largest)
        if smallest is not None and largest is not None and smallest > largest:
            raise HyperParameterError('smallest', f'must be at most the largest distance, {largest} pixels', smallest)
        self.keep = self.check('keep', keep)
        self.prob = self.check('prob', prob)
        self.ramp = self.check('ramp', ramp)
        self.risen = Ramp(ramp)

    def describe(self, size: tuple[int, int]) -> str:
        smallest, largest = self._distances(size)
        return (
            f'squares {smallest} to {largest} px apart, {2 * self.keep - self.keep**2:.0%} kept, probability '
            f'{self.prob:g}{self.risen}'
        )

    def set_progress(self, progress: float) -> None:
        self.risen.set_progress(progress)

    def check_images(self, x: Tensor) -> None:
        for name in ('smallest', 'largest'):
            if vars(self)[name] is not None:
                check_edge(name, vars(self)[name], x)
        smallest, largest = self._distances(tuple(x.shape[-2:]))
        if smallest > largest:
            raise HyperParameterError(
                'largest', f'must be at least the smallest distance, {smallest} pixels for these images', self.largest
            )

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        size = tuple(x.shape[-2:])
        mask = grid_mask(len(x), size, self._distances(size), self.keep, generator, x.device)
        applied = draw_applied(len(x), self.prob * float(self.risen) * self.strength, x.device, generator)
        if applied is not None:
            mask = mask & applied
        self.last = {'mask': mask}
        return fill_region(x, mask, 'zero', generator), target

    def _distances(self, size: Sequence[int]) -> tuple[int, int]:
        edge = min(size)
        largest = edge if self.largest is None else self.largest
        # One of the two alone may lie beyond the other's default.
        smallest = max(1, round(SMALLEST_SHARE * edge)) if self.smallest is None else self.smallest
        return smallest, largest
