"""Mixing inside the network: Manifold Mixup and Feature CutMix (CutMix, section 4.1.1 and Figure 3)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keepaug.augment.label_mixing import PartnerMixer
from keepaug.augment.registry import register_augment
from keepaug.functional import boxes_to_mask, draw
from keepaug.functional.mixing import cutmix_sizes, draw_lam, overlapping_boxes, share_left
from keepaug.models.feature_mixing import Plan, Stage, StageMixing, mix_features
from keepaug.ranges import HyperParameterError, Range


class FeatureMixer(PartnerMixer):
    """Mixes the batch at a stage drawn for each batch: the image, or the output of one of the backbone's stages.

    Images come out as they went in where a later stage is drawn: hooks on the model mix the features in its next
    forward pass in training mode. Compile the model after the first batch or `check_images`, not before.

    Args:
        model: Bare model, of timm's.
        num_classes: Number of classes K.
        stages: Stages to draw from, 0 for the image and n for the n-th entry of the model's `feature_info`; None for
            the image and all but the last.
        alpha: Parameter of lambda's Beta distribution.
        **mixing: What `PartnerMixer` takes.

    `last`: `partner`, `lam`, `stage`, `boxes` int64 (B, 1, 4) in cells of that stage's map, empty where nothing is cut,
    and `mask` bool (B, 1, h, w), True on the cells that are the partner's.

    Raises:
        ValueError: A value is out of range, or there is no model.
    """

    ranges = PartnerMixer.ranges | {'alpha': Range(above=0)}

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        stages: tuple[int, ...] | None = None,
        alpha: float = 1.0,
        **mixing: Any,
    ):
        super().__init__(model, num_classes, **mixing)
        if model is None:
            raise ValueError('Features are mixed inside a model: give model=.')
        if stages is not None and (not stages or min(stages) < 0 or len(set(stages)) != len(stages)):
            raise HyperParameterError('stages', 'must be different numbers, from 0 (the image) up', stages)
        self.stages = stages
        self.alpha = self.check('alpha', alpha)
        self.inside = StageMixing(model)

    def __call__(
        self,
        x: Tensor,
        target: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        self.inside.clear_plan()  # also where this is switched off: the last batch's must not go on
        return super().__call__(x, target, generator)

    def describe(self, size: tuple[int, int]) -> str:
        stages = 'all but the last' if self.stages is None else ', '.join(map(str, self.stages))
        return f'alpha {self.alpha:g}, stages {stages}, {super().describe(size)}'

    def check_images(self, x: Tensor) -> None:
        self.choices(x)

    def choices(self, x: Tensor) -> list[int]:
        """The stages to draw from, for images such as these.

        Raises:
            ValueError: One that was asked for cannot be mixed at.
        """
        usable = self._usable(x)
        if self.stages is None:
            return [number for number in usable if number < len(self.inside.stages(x))]
        for number in self.stages:
            if number not in usable:
                raise HyperParameterError(
                    'stages', f'must be among {", ".join(map(str, usable))} for {type(self.model).__name__}', number
                )
        return list(self.stages)

    def _usable(self, x: Tensor) -> dict[int, Stage]:
        """The stages that images such as these can be mixed at, by number."""
        inside = {number: stage for number, stage in enumerate(self.inside.stages(x), 1) if stage is not None}
        return {0: Stage('', 'NCHW', x.shape[-2:]), **inside}

    def mix(
        self,
        x: Tensor,
        target: Tensor,
        partner: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        choices = self.choices(x)
        # Drawn on the CPU, since the host must know which code to run; only a generator on the device makes it wait.
        number = choices[int(draw.integers(0, len(choices) - 1, 1, device='cpu', generator=generator))]
        stage = self._usable(x)[number]
        applied = self.flip_coin(self.applied_share(), group, generator).to(x.device, non_blocking=True)
        lam, outside, boxes = self.draw(len(x), stage.size, applied, group, generator)
        self.last = {'stage': number, 'boxes': boxes[:, None], 'mask': boxes_to_mask(boxes, stage.size)}
        if not number:
            x = mix_features(x, stage, partner, lam, outside, boxes)
        chosen = torch.arange(1, len(self.inside.stages(x)) + 1, device=x.device) == number
        self.inside.set_plan(Plan(number, chosen, partner, lam, outside, boxes), x)
        return x, lam

    def draw(
        self,
        batch: int,
        size: Sequence[int],
        applied: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws how to mix.

        Args:
            batch: Number of samples B.
            size: (h, w) of the map that is mixed.
            applied: bool (B,): the samples that are mixed at all.
            group: int64 (B,): which of B draws each sample takes.
            generator: Source of randomness.

        Returns:
            Weight float64 (B,) of the own label, of the own features outside the box, and the box int64 (B, 4).
        """
        raise NotImplementedError


@register_augment('manifold-mixup')
class ManifoldMixup(FeatureMixer):
    """Blends features (Verma et al., Manifold Mixup, 2019), tokens that stand for the whole image among them.

    While it is faded out, alpha falls, as mixup's does.
    """

    def applied_share(self) -> float:
        return self.prob

    def draw(
        self,
        batch: int,
        size: Sequence[int],
        applied: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        lam = draw_lam(batch, self.alpha * self.strength, generator, applied.device)[group]
        lam = torch.where(applied, lam, 1.0)
        return lam, lam, torch.zeros(batch, 4, dtype=torch.int64, device=applied.device)


@register_augment('feature-cutmix')
class FeatureCutMix(FeatureMixer):
    """Puts a region of one sample's feature map into another's; the label follows the exact share of cells."""

    def draw(
        self,
        batch: int,
        size: Sequence[int],
        applied: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sizes = cutmix_sizes(draw_lam(batch, self.alpha, generator, applied.device), size)
        boxes = torch.where(applied[:, None], overlapping_boxes(sizes, size, generator)[group], 0)
        lam = share_left(boxes, size)
        return lam, torch.ones_like(lam), boxes
