"""Mixup and CutMix on the device: two images and their labels into one, each sample with its own draw."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keepaug.augment.base import BatchAugment, flip_coins
from keepaug.augment.registry import register_augment
from keepaug.functional import boxes_to_mask, draw
from keepaug.functional.mixing import (
    blend,
    cutmix_sizes,
    draw_lam,
    draw_pairs,
    draw_partners,
    inside_boxes,
    minmax_sizes,
    mix_targets,
    overlapping_boxes,
    share_left,
)
from keepaug.ranges import PROBABILITY, HyperParameterError, Range, check_choice

MODES = ('batch', 'pair', 'elem')


class PartnerMixer(BatchAugment):
    """Mixes every sample with a partner drawn at random, never itself unless the batch is one image.

    Subclasses define `mix`.

    Args:
        model: Bare model, for those that need one.
        num_classes: Number of classes K.
        prob: Probability that a draw mixes at all.
        mixing: 'batch' for one draw per batch, 'pair' for one per pair, 'elem' for one per sample.
        smoothing: Label smoothing of class indices.

    `last`: `partner` int64 (B,), `lam` float64 (B,) weight of the own label, and what each class says.

    Raises:
        ValueError: A value is out of range.
    """

    ranges = {'prob': PROBABILITY}
    num_classes: int

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        prob: float = 1.0,
        mixing: str = 'batch',
        smoothing: float = 0.0,
    ):
        super().__init__(model, num_classes)
        if num_classes is None or num_classes < 1:
            raise HyperParameterError('num_classes', 'must be the number of classes, for labels are mixed', num_classes)
        self.prob = self.check('prob', prob)
        self.mixing = check_choice('mixing', mixing, MODES)
        self.smoothing = smoothing

    @property
    def mixes_labels(self) -> bool:
        return True

    def describe(self, size: tuple[int, int]) -> str:
        return f'probability {self.describe_probability()}, one draw per {self.mixing}'

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        if target is None:
            raise ValueError('Mixing labels needs labels, got target = None.')
        partner = (draw_pairs if self.mixing == 'pair' else draw_partners)(len(x), generator, x.device)
        mixed, lam = self.mix(x, target, partner, self._groups(partner), generator)
        self.last |= {'partner': partner, 'lam': lam}
        return mixed, mix_targets(target, target[partner], lam, self.num_classes, self.smoothing)

    def mix(
        self,
        x: Tensor,
        target: Tensor,
        partner: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Mixes the images.

        Args:
            x: Images (B, C, H, W). Not modified.
            target: Their labels, not mixed yet.
            partner: int64 (B,).
            group: int64 (B,): which of B draws each sample takes.
            generator: Source of randomness.

        Returns:
            The images, and the weight float64 (B,) of each one's own label.
        """
        raise NotImplementedError

    def describe_probability(self) -> str:
        """The probability that a draw mixes, in words."""
        return f'{self.prob:g}'

    def applied_share(self) -> float:
        """Probability that a draw of this batch mixes."""
        return self.prob * self.strength

    def _groups(self, partner: Tensor) -> Tensor:
        """Which draw (B,) each sample takes: one for all, one for both of a pair, or its own."""
        own = torch.arange(len(partner), device=partner.device)
        return {'batch': torch.zeros_like(own), 'pair': torch.minimum(own, partner), 'elem': own}[self.mixing]

    def flip_coin(self, prob: float, group: Tensor, generator: torch.Generator | None) -> Tensor:
        """Which samples (B,) a coin chooses, on the CPU where the host is to see it (`flip_coins`).

        Who pairs with whom is known to the device alone.
        """
        if self.mixing == 'pair':
            return (draw.uniform(len(group), device=group.device, generator=generator) < prob)[group]
        count = 1 if self.mixing == 'batch' else len(group)
        return flip_coins(count, prob, group.device, generator).expand(len(group))


def may_be_any(chosen: Tensor) -> bool:
    """Whether any sample is chosen, as far as the host can tell without waiting for a device."""
    return chosen.device.type != 'cpu' or bool(chosen.any())


class LabelMixer(PartnerMixer):
    """Mixup and CutMix with timm's hyper-parameters, vectorised over the batch.

    Lambda, the choice between the two and the box are drawn per `mixing`. The label's share is the exact share of
    pixels (CutMix) or lambda (mixup). While mixing is faded out, it is mixup's alpha that falls, and CutMix's
    probability.

    Args:
        model: Not used.
        num_classes: Number of classes K.
        mixup_alpha: Parameter of mixup's Beta distribution; 0 switches mixup off.
        cutmix_alpha: The same for CutMix.
        cutmix_minmax: Smallest and largest edge relative to the image, drawn uniformly; turns CutMix on and takes the
            place of its lambda.
        switch_prob: Probability of CutMix where both are on.
        **mixing: What `PartnerMixer` takes.

    `last`: `partner`, `lam`, `boxes` int64 (B, 1, 4) empty where an image is not cut, `mask` bool (B, 1, H, W) True
    where the partner's pixels are.

    Raises:
        ValueError: A value is out of range.
    """

    ranges = PartnerMixer.ranges | {
        'mixup_alpha': Range(least=0),
        'cutmix_alpha': Range(least=0),
        'switch_prob': PROBABILITY,
    }

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: tuple[float, float] | None = None,
        switch_prob: float = 0.5,
        **mixing: Any,
    ):
        super().__init__(model, num_classes, **mixing)
        if cutmix_minmax is not None and not 0 <= cutmix_minmax[0] <= cutmix_minmax[1] <= 1:
            raise HyperParameterError('cutmix_minmax', 'must be two rising shares between 0 and 1', cutmix_minmax)
        if not (mixup_alpha or cutmix_alpha or cutmix_minmax):
            raise ValueError('Nothing would be mixed: give mixup_alpha, cutmix_alpha or cutmix_minmax.')
        self.mixup_alpha = self.check('mixup_alpha', mixup_alpha)
        self.cutmix_alpha = self.check('cutmix_alpha', cutmix_alpha)
        self.cutmix_minmax = cutmix_minmax
        self.switch_prob = self.check('switch_prob', switch_prob)

    @property
    def switches(self) -> bool:
        return 0.0 < self._cutmix_share() < 1.0

    def describe(self, size: tuple[int, int]) -> str:
        return f'{self._alphas()}, {super().describe(size)}'

    def _alphas(self) -> str:
        cutmix = f'cutmix alpha {self.cutmix_alpha:g}' if self.cutmix_alpha else ''
        if self.cutmix_minmax is not None:
            cutmix = 'cutmix side {:g} to {:g}'.format(*self.cutmix_minmax)
        cutmix += f' ({self.switch_prob:g} of the draws)' if self.switches else ''
        return ', '.join(filter(None, [f'mixup alpha {self.mixup_alpha:g}' if self.mixup_alpha else '', cutmix]))

    def mix(
        self,
        x: Tensor,
        target: Tensor,
        partner: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        batch, size, device = len(x), x.shape[-2:], x.device
        applied = self.flip_coin(self.applied_share(), group, generator)
        cuts = applied & self.flip_coin(self._cutmix_share(), group, generator)
        blends = applied & ~cuts
        lam = torch.ones(batch, dtype=torch.float64, device=device)
        if self.mixup_alpha and may_be_any(blends):
            blends = blends.to(device, non_blocking=True)
            alpha = self.mixup_alpha * self.strength
            lam = torch.where(blends, draw_lam(batch, alpha, generator, device)[group], lam)
        if self.strength < 1.0:
            cuts = cuts & self.flip_coin(self.strength, group, generator)
        weight = lam[:, None, None, None]
        boxes = torch.zeros(batch, 4, dtype=torch.int64, device=device)
        if (self.cutmix_alpha or self.cutmix_minmax) and may_be_any(cuts):
            sizes = self.draw_sizes(batch, size, device, generator)[group]
            placed = self.place(x, target, sizes, group, cuts, generator)
            cuts = cuts.to(device, non_blocking=True)
            boxes = torch.where(cuts[:, None], placed, boxes)
            lam = torch.where(cuts, self.own_weight(share_left(boxes, size)), lam)
        mask = boxes_to_mask(boxes, size)
        self.last = {'boxes': boxes[:, None], 'mask': mask}
        # One formula for both: the own weight is lambda everywhere, or 0 in the box and 1 outside.
        return blend(x, partner, torch.where(mask, 0.0, weight).float()), lam

    def applied_share(self) -> float:
        return self.prob  # what fades is drawn apart

    def _cutmix_share(self) -> float:
        """Share of the mixed draws that cut."""
        if not self.mixup_alpha:
            return 1.0
        return self.switch_prob if self.cutmix_alpha or self.cutmix_minmax else 0.0

    def draw_sizes(
        self, batch: int, size: Sequence[int], device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """Height and width (B, 2) of each draw's region."""
        if self.cutmix_minmax is None:
            return cutmix_sizes(draw_lam(batch, self.cutmix_alpha, generator, device), size)
        return minmax_sizes(batch, self.cutmix_minmax, size, generator, device)

    def place(
        self,
        x: Tensor,
        target: Tensor,
        sizes: Tensor,
        group: Tensor,
        cuts: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Where the regions go: one box (B, 4) per draw, over the border too, or inside under `cutmix_minmax`.

        Args:
            x: Images (B, C, H, W).
            target: Their labels.
            sizes: int64 (B, 2).
            group: int64 (B,): which of B draws each sample takes.
            cuts: bool (B,), samples whose boxes are used; on the CPU where the host may see it.
            generator: Source of randomness.
        """
        boxes = overlapping_boxes if self.cutmix_minmax is None else inside_boxes
        return boxes(sizes, x.shape[-2:], generator)[group]

    def own_weight(self, share: Tensor) -> Tensor:
        """Weight (B,) of the own label of images that were cut, given the share of pixels left: that share."""
        return share


@register_augment('mixup')
class Mixup(LabelMixer):
    """Blends two images (Zhang et al., mixup, 2018): `LabelMixer` with mixup on."""

    def __init__(
        self, model: nn.Module | None = None, num_classes: int | None = None, mixup_alpha: float = 1.0, **kwargs: Any
    ):
        super().__init__(model, num_classes, mixup_alpha=mixup_alpha, **kwargs)


@register_augment('cutmix')
class CutMix(LabelMixer):
    """Puts a region of one image into another (Yun et al., CutMix, 2019): `LabelMixer` with CutMix on."""

    def __init__(
        self, model: nn.Module | None = None, num_classes: int | None = None, cutmix_alpha: float = 1.0, **kwargs: Any
    ):
        super().__init__(model, num_classes, cutmix_alpha=cutmix_alpha, **kwargs)
