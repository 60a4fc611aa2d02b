"""The other ways to do CutMix that its paper tried (CutMix, section 4.1.3, Table 8): all worse, and so controls."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keepaug.augment.base import check_edge
from keepaug.augment.label_mixing import LabelMixer
from keepaug.augment.ramp import Ramp
from keepaug.augment.registry import register_augment
from keepaug.functional.mixing import central_boxes, inside_boxes, overlapping_boxes
from keepaug.ranges import PIXELS, check_choice

# Where a variant places its region, and what it makes of the share of pixels left; CutMix's own way where not named.
PLACES = {'center-gaussian': central_boxes, 'fixed': inside_boxes}
LABELS = {
    'one-hot': lambda share: (share >= 0.5).to(share.dtype),
    'complete-label': lambda share: torch.full_like(share, 0.5),
}


@register_augment('cutmix-variant')
class CutMixVariant(LabelMixer):
    """CutMix with one thing changed.

    Args:
        model: Not used.
        num_classes: Number of classes K.
        variant: 'center-gaussian' draws the region's centre around the image's; 'fixed' cuts a square of `fixed_size`
            inside the image; 'one-hot' gives the whole label to the image of more pixels, the own one at half;
            'scheduled' raises the probability linearly from 0 to `prob` over the training, as `set_progress` tells;
            'complete-label' gives half the label to each image, whatever their shares.
        fixed_size: Edge of the square in pixels; 16, the paper's, is a quarter of an image of 32 px.
        cutmix_alpha: Parameter of lambda's Beta distribution; not used by 'fixed'.
        **mixing: What `PartnerMixer` takes.

    `last`: as `LabelMixer`; `lam` is the label's weight, which need not be the share of pixels here.

    Raises:
        ValueError: A value is out of range, or 'scheduled' was not told the progress.
    """

    ranges = LabelMixer.ranges | {'fixed_size': PIXELS}
    variants = ('center-gaussian', 'fixed', 'one-hot', 'scheduled', 'complete-label')

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        variant: str = 'center-gaussian',
        fixed_size: int = 16,
        cutmix_alpha: float = 1.0,
        **mixing: Any,
    ):
        super().__init__(model, num_classes, cutmix_alpha=cutmix_alpha, **mixing)
        self.variant = check_choice('variant', variant, self.variants)
        self.fixed_size = self.check('fixed_size', fixed_size)
        self.risen = Ramp(1.0 if variant == 'scheduled' else 0.0)

    def set_progress(self, progress: float) -> None:
        self.risen.set_progress(progress)

    def describe(self, size: tuple[int, int]) -> str:
        fixed = f', {self.fixed_size} x {self.fixed_size} px' if self.variant == 'fixed' else ''
        return f'{self.variant}{fixed}, {super().describe(size)}'

    def describe_probability(self) -> str:
        probability = super().describe_probability()
        return f'growing from 0 to {probability} over the epochs' if self.variant == 'scheduled' else probability

    def check_images(self, x: Tensor) -> None:
        if self.variant == 'fixed':
            check_edge('fixed_size', self.fixed_size, x)

    def applied_share(self) -> float:
        return super().applied_share() * float(self.risen)

    def draw_sizes(
        self, batch: int, size: Sequence[int], device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        if self.variant == 'fixed':
            return torch.full((batch, 2), self.fixed_size, device=device)
        return super().draw_sizes(batch, size, device, generator)

    def place(
        self,
        x: Tensor,
        target: Tensor,
        sizes: Tensor,
        group: Tensor,
        cuts: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        self.check_images(x)
        return PLACES.get(self.variant, overlapping_boxes)(sizes, x.shape[-2:], generator)[group]

    def own_weight(self, share: Tensor) -> Tensor:
        return LABELS[self.variant](share) if self.variant in LABELS else share
