"""Selective paste: a salient region of the clean image is put back on the augmented one (KeepAugment, Eq. 3)."""

import torch
from torch import Tensor, nn

from keepaug.augment.keep_cut import KeepCut
from keepaug.augment.keep_region import KeepRegion
from keepaug.augment.registry import register_augment
from keepaug.functional import boxes_to_mask, region_scores, sample_regions
from keepaug.ranges import COUNT, PROBABILITY


@register_augment('keep-paste')
class KeepPaste(KeepRegion):
    """Pastes a region, drawn among those whose summed saliency is above a quantile, over an image-level augmentation.

    Takes pairs, 2B rows: the B clean images, then the same B images in the same order after the policy
    (`keepaug.data.transform` makes such batches). B rows come out, x' = M x + (1 - M) A(x) (KeepAugment, Algorithm 1b).
    Saliency is that of the clean rows; their size, crop and flip are those of the augmented ones.

    The region is pasted at its own place, also where A rotates, shears or shifts: what is pasted then repeats or
    interrupts what lies around it. That is the paper's method; a policy without geometry avoids it.

    Args:
        model: Bare model, for saliency; may be None with `tau=None`.
        num_classes: Not used.
        size: Edge of the pasted square in pixels; None for 16 below 96 px and 40 from there.
        tau: Quantile in [0, 1] of the scores of all windows (the paper's is 0.6), above which the pasted one lies;
            None draws blindly among the same windows, which is the control for what saliency adds.
        prob: Probability that a region is pasted; an image without one is the augmented one.
        saliency: A kind of `SaliencySource`; None for the cheapest that the model allows.
        low_scale: Size of the low-resolution copy, relative to the image.
        reprob: Probability that the augmented image is erased as by timm's random erasing, before the paste: neither
            the clean image nor what is pasted is ever erased.
        remode: What erasing fills in: 'pixel', 'rand' or 'const'.
        recount: Largest number of erased regions in an image.

    Switched off, it passes the clean rows through, without policy or paste.

    `last`: `boxes` int64 (B, 1, 4) XYXY, empty where nothing is pasted, `mask` bool (B, 1, H, W) True where pasted,
    `saliency` float32 (B, 1, H, W) or None, `clean` and `augmented` (B, C, H, W), the latter after erasing.

    Raises:
        ValueError: A value is out of range, or a model is needed and missing; from a call, the rows are not pairs.
    """

    ranges = KeepRegion.ranges | {'reprob': PROBABILITY, 'recount': COUNT}
    rows_per_sample = 2

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        size: int | None = None,
        tau: float | None = 0.6,
        prob: float = 1.0,
        saliency: str | None = None,
        low_scale: float = 0.5,
        reprob: float = 0.0,
        remode: str = 'pixel',
        recount: int = 1,
    ):
        super().__init__(model, num_classes, size, tau, prob, saliency, low_scale)
        self.reprob = self.check('reprob', reprob)
        self.remode = remode
        self.recount = self.check('recount', recount)
        # Keep-cut without saliency is random erasing, vectorised.
        self.eraser = KeepCut(mode='erase', tau=None, fill=remode, prob=reprob, max_count=recount) if reprob else None

    @property
    def erases(self) -> bool:
        return self.eraser is not None

    def check_images(self, x: Tensor) -> None:
        self.edge(x)
        super().check_images(x)

    def describe(self, size: tuple[int, int]) -> str:
        erased = f'probability {self.reprob:g}, fill {self.remode}, regions at most {self.recount}'
        return super().describe(size) + (f'; random erasing under it, {erased}' if self.reprob else '')

    def bypass(self, x: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        clean, _, target = split_pairs(x, target)
        return clean, target

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        clean, augmented, target = split_pairs(x, target)
        size = (self.edge(clean),) * 2
        applied = self.draw_used(len(clean), x.device, generator)
        saliency, shown = self.measure(clean, target, applied)
        if self.eraser is not None:
            self.eraser.strength = self.strength
            augmented, _ = self.eraser(augmented, None, generator)
        box = sample_regions(region_scores(shown, size), size, self.tau, 'high', generator)
        if applied is not None:
            box = torch.where(applied.to(x.device, non_blocking=True)[:, None], box, 0)
        mask = boxes_to_mask(box, x.shape[-2:])
        self.last = {'boxes': box[:, None], 'mask': mask, 'saliency': saliency, 'clean': clean, 'augmented': augmented}
        return torch.where(mask, clean, augmented), target


def split_pairs(x: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Takes a paired batch apart.

    Args:
        x: Images (2B, C, H, W), the clean ones first.
        target: Targets of 2B rows, the first B of which count, or of B rows; or None.

    Returns:
        Views: clean images (B, C, H, W), augmented ones in the same order, targets of B rows.

    Raises:
        ValueError: The rows are odd in number, the targets are neither 2B nor B, or, on the CPU, their halves differ.
    """
    rows, odd = divmod(len(x), 2)
    if odd or target is not None and len(target) not in (rows, 2 * rows):
        labels = '' if target is None else f' and {len(target)} targets'
        raise ValueError(f'Pairs need as many augmented rows as clean ones, got {len(x)} rows{labels}.')
    if target is None or len(target) == rows:
        return x[:rows], x[rows:], target
    target, again = target[:rows], target[rows:]
    if target.device.type == 'cpu' and not torch.equal(target, again):
        raise ValueError(
            'Pairs are the clean images, then the same ones augmented, but the labels of the two halves differ: these '
            'look like ordinary batches.'
        )
    return x[:rows], x[rows:], target
