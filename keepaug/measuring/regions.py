"""What each augmentation does to a batch, and how much of the saliency lies in its region."""

from collections.abc import Sequence
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
from keepaug.models import EarlyExit


class Step(NamedTuple):
    """What one augmentation did to the images of the sheet.

    Attributes:
        name: The augmentation, by its class.
        method: What is known of it: what it does in its region, and which pictures tell.
        drawn: What of `last` is per image.
        judge: Saliency (B, 1, H, W) of the images it received, by the full pass; None where it drew no region.
        result: Images (B, C, H, W) it gave.
    """

    name: str
    method: Method
    drawn: dict[str, Tensor]
    judge: Tensor | None
    result: Tensor

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
        return Step(self.name, self.method, drawn, judge, self.result[:count])


class Shares(NamedTuple):
    """How much of image and saliency lies in an augmentation's region, on average over the images that have one.

    Attributes:
        name: The augmentation.
        region: What happens in the region, as a participle.
        keeps_region: Whether the region is what remains, and not what is lost.
        count: Images that have one.
        area: Share of the image.
        own: Share of the saliency that the region was drawn by; None where it was drawn blindly.
        full: Share of the saliency of the full pass.
    """

    name: str
    region: str
    keeps_region: bool
    count: int
    area: float
    own: float | None
    full: float

    @property
    def kept(self) -> float:
        """Share of the full pass's saliency that the augmentation left untouched.

        What lies outside the region that is removed or replaced. Where the region is put back onto a changed image,
        what lies inside it.
        """
        return self.full if self.keeps_region else 1.0 - self.full


def bare_model(task: TrainingTask) -> nn.Module:
    """The model of a task, without an early head and what else is trained beside it."""
    model = unwrap_model(task.get_eval_model())
    return model.backbone if isinstance(model, EarlyExit) else model


def run_steps(
    augments: Sequence[BatchAugment],
    x: Tensor,
    target: Tensor,
    rows: int,
    model: nn.Module,
    where: Tensor | None = None,
) -> tuple[list[Step], Tensor]:
    """Augments a batch and records what each augmentation did to its first images.

    Args:
        augments: Augmentations in the order a batch meets them.
        x: Images of the batch, as many rows as the augmentations take.
        target: Their targets.
        rows: Images B to record.
        model: Model whose saliency judges the regions.
        where: Places of the images, where past steps guide an augmentation.

    Returns:
        A step per augmentation that is on, and the targets of the first B results.
    """
    steps = []
    for augment in augments:
        received, before, labels = len(x), x[:rows], target[:rows]
        x, target = call(augment, x, target, where=where)
        drawn = {name: value[:rows] for name, value in augment.last.items() if torch.is_tensor(value) and value.ndim}
        if not augment.active:
            continue
        # What looks at saliency has a map to show even where it draws no region, a mixer of whole images has not.
        seen = 'mask' in drawn and ('saliency' in drawn or drawn['mask'].any())
        judge = input_saliency(model, before, labels) if seen else None
        # Where more rows come out than went in, the new ones stand behind the old.
        result = x[max(0, len(x) - received) :][:rows]
        steps.append(Step(type(augment).__name__, method_of(augment.name), drawn, judge, result))
    return steps, target[:rows]


def measure(step: Step) -> Shares:
    """Shares of image and saliency in the region of a step that draws one; nan where no image has one."""
    mask = step.mask
    has = mask.flatten(1).any(1)

    def share(saliency: Tensor) -> float:
        inside, total = ((saliency * part).double().sum((1, 2, 3))[has] for part in (mask, 1))
        return (inside / total).nanmean().item()

    own = step.drawn.get('saliency')
    return Shares(
        name=step.name,
        region=step.method.region_of(step.drawn),
        keeps_region=step.method.keeps_region,
        count=int(has.sum()),
        area=share(torch.ones_like(step.judge)),
        own=None if own is None else share(own),
        full=share(step.judge),
    )
