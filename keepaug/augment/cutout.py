"""Cutout: squares removed blindly. The published baseline that selective cutting is measured against."""

import torch
from torch import Tensor, nn

from keepaug.augment.base import BatchAugment, check_edge, default_window, draw_applied
from keepaug.augment.fill import fill_region
from keepaug.augment.registry import register_augment
from keepaug.functional import cutout_mask
from keepaug.ranges import COUNT, PIXELS, PROBABILITY


@register_augment('cutout')
class Cutout(BatchAugment):
    """Sets squares to zero whose centres are uniform over the image and may overflow its border.

    DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.

    Args:
        model: Not used.
        num_classes: Not used.
        size: Edge in pixels; None for 16 below 96 px and 40 from there.
        holes: Squares per image.
        prob: Probability that an image is cut.

    `last`: `mask` bool (B, 1, H, W), True where removed.
    """

    ranges = {'size': PIXELS, 'holes': COUNT, 'prob': PROBABILITY}

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        size: int | None = None,
        holes: int = 1,
        prob: float = 1.0,
    ):
        super().__init__(model, num_classes)
        self.size = self.check('size', size)
        self.holes = self.check('holes', holes)
        self.prob = self.check('prob', prob)

    def describe(self, size: tuple[int, int]) -> str:
        edge = self.size or default_window(*size)
        return f'{edge} x {edge} px, squares {self.holes}, probability {self.prob:g}, anywhere, over the border too'

    def check_images(self, x: Tensor) -> None:
        if self.size is not None:
            check_edge('size', self.size, x)

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        batch, _, height, width = x.shape
        size = self.size or default_window(height, width)
        mask = cutout_mask(batch, (height, width), size, self.holes, generator, x.device)
        applied = draw_applied(batch, self.prob * self.strength, x.device, generator)
        if applied is not None:
            mask = mask & applied
        self.last = {'mask': mask}
        return fill_region(x, mask, 'zero', generator), target
