"""What each augmentation does to a batch, and how much of the saliency lies in its region."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, nn

from keepaug.augment import BatchAugment
from keepaug.augment.base import call
from keepaug.functional import input_saliency
from keepaug.methods import Method, method_of
from keepaug.models.early_exit import backbone_of


class Step(NamedTuple):
    """What one augmentation did to the images of the sheet.

    Attributes:
        augment: The augmentation.
        method: What is known of it: what it does in its region, and which pictures tell.
        received: The batch it was given, images and targets, in as many rows as it takes.
        drawn: What of `last` is per image.
        judge: Saliency (B, 1, H, W) of the images it received, by the full pass; None where it drew no region.
        result: Images (B, C, H, W) it gave.
    """

    augment: BatchAugment
    method: Method
    received: tuple[Tensor, Tensor | None]
    drawn: dict[str, Tensor]
    judge: Tensor | None
    result: Tensor

    @property
    def name(self) -> str:
        """The augmentation, by its class."""
        return type(self.augment).__name__

    @property
    def saliency(self) -> Tensor | None:
        """The map that the region was drawn by; the judge's where it was drawn blindly."""
        return self.drawn.get('saliency', self.judge)

    @property
    def mask(self) -> Tensor | None:
        """bool (B, 1, H, W), True in the region; where that is one of a feature map, in the pixels below it."""
        if self.judge is None:
            return None
        return F.interpolate(self.drawn['mask'].float(), self.result.shape[-2:]).bool()

    def first(self, count: int) -> 'Step':
        """The step of the first images alone."""
        drawn = {name: value[:count] for name, value in self.drawn.items()}
        judge = None if self.judge is None else self.judge[:count]
        return self._replace(drawn=drawn, judge=judge, result=self.result[:count])


@dataclass(frozen=True)
class Shares:
    """How much of image and saliency lies in an augmentation's region, of the images that have one.

    Attributes:
        name: The augmentation.
        region: What happens in the region, as a participle.
        areas: Share of each image, float64 (N,).
        saliencies: Share of the saliency of the full pass, float64 (N,); nan where that is zero everywhere.
    """

    name: str
    region: str
    areas: Tensor
    saliencies: Tensor

    @property
    def count(self) -> int:
        """Images that have a region."""
        return len(self.areas)

    @property
    def area(self) -> float:
        """Mean share of the image."""
        return self.areas.mean().item()

    @property
    def saliency(self) -> float:
        """Mean share of the saliency."""
        return self.saliencies.nanmean().item()


def bare_model(task: TrainingTask) -> nn.Module:
    """The model of a task, without an early head and what else is trained beside it."""
    model = unwrap_model(task.get_eval_model())
    return backbone_of(model)


def run_steps(
    augments: Sequence[BatchAugment],
    x: Tensor,
    target: Tensor | None,
    rows: int,
    model: nn.Module,
    where: Tensor | None = None,
) -> tuple[list[Step], Tensor | None]:
    """Augments a batch and records what each augmentation did to its first images.

    Args:
        augments: Augmentations in the order a batch meets them.
        x: Images of the batch, as many rows as the augmentations take.
        target: Their targets, or None for images without labels.
        rows: Images B to record.
        model: Model whose saliency judges the regions.
        where: Places of the images, where past steps guide an augmentation.

    Returns:
        A step per augmentation that is on, and the targets of the first B results.
    """
    steps = []
    for augment in augments:
        received = x, target
        x, target = call(augment, x, target, where=where)
        drawn = {name: value[:rows] for name, value in augment.last.items() if torch.is_tensor(value) and value.ndim}
        if not augment.active:
            continue
        # What looks at saliency has a map to show even where it draws no region, a mixer of whole images has not.
        seen = 'mask' in drawn and ('saliency' in drawn or drawn['mask'].any())
        judge = input_saliency(model, *first_rows(received, rows)) if seen else None
        if seen and 'partner' in drawn:
            drawn['partner_image'] = received[0][drawn['partner']]
        # Where more rows come out than went in, the new ones stand behind the old.
        result = x[max(0, len(x) - len(received[0])) :][:rows]
        steps.append(Step(augment, method_of(augment.name), received, drawn, judge, result))
    return steps, first_rows((x, target), rows)[1]


def first_rows(batch: tuple[Tensor, Tensor | None], rows: int) -> tuple[Tensor, Tensor | None]:
    """The first rows of images and of targets, where there are any."""
    x, target = batch
    return x[:rows], None if target is None else target[:rows]


def measure(step: Step) -> Shares | None:
    """Shares of image and saliency in the region of a step; None where it draws none."""
    mask, judge = step.mask, step.judge
    if mask is None or judge is None:
        return None
    has = mask.flatten(1).any(1)
    return Shares(
        step.name,
        step.method.region_of(step.drawn),
        areas=share_in(mask, torch.ones_like(judge))[has],
        saliencies=share_in(mask, judge)[has],
    )


def share_in(mask: Tensor, weight: Tensor) -> Tensor:
    """Share of a weight (B, 1, H, W) that lies in a mask (B, 1, H, W): float64 (B,), nan where there is no weight."""
    inside, total = ((weight * part).double().sum((1, 2, 3)) for part in (mask, 1))
    return inside / total


def join(parts: Sequence[Shares]) -> Shares:
    """The shares of one augmentation in several batches as those of one."""
    areas, saliencies = (torch.cat([getattr(part, name) for part in parts]) for name in ('areas', 'saliencies'))
    # A batch without regions, such as one that was blended, cannot tell what happens in them.
    told = next((part for part in parts if part.count), parts[0])
    return replace(told, areas=areas, saliencies=saliencies)


def saliency_kept(steps: Sequence[Step], model: nn.Module) -> float | None:
    """Share of the saliency of images that still shows after all augmentations; None where nothing can be told.

    Saliency is that of the full pass on the images as they came in, of pairs the clean ones. It still shows where no
    augmentation has removed or replaced it; where a region is put back over a changed image, inside that alone. Of
    images that come out twice it is that of the changed ones. Mean over the images, less those that were blended as a
    whole, whose pixels are of two images everywhere.

    Args:
        steps: What the augmentations did, as `run_steps` gives it.
        model: Model whose saliency it is.
    """
    rows = len(steps[0].result)
    x, target = first_rows(steps[0].received, rows)
    shown = torch.ones(rows, 1, *x.shape[-2:], dtype=torch.bool, device=x.device)
    whole = torch.ones(rows, dtype=torch.bool, device=x.device)
    for step in steps:
        mask = step.drawn.get('mask')
        if mask is not None:
            mask = F.interpolate(mask.float(), x.shape[-2:]).bool()
            shown &= mask if step.method.keeps_region else ~mask
        if 'lam' in step.drawn:
            cut = mask.flatten(1).any(1) if mask is not None else torch.zeros_like(whole)
            whole &= cut | (step.drawn['lam'] == 1)
    judge = input_saliency(model, x, target) if steps[0].judge is None else steps[0].judge
    kept = share_in(shown, judge)[whole]
    return kept.nanmean().item() if kept.isfinite().any() else None
