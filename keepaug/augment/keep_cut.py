"""Selective cut: only regions of low saliency are removed (KeepAugment, section 3, Eq. 2)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keepaug.augment.fill import FILLS, fill_region
from keepaug.augment.keep_region import KeepRegion
from keepaug.augment.label_mixing import LabelMixer
from keepaug.augment.recycled import RecycledSaliency, SaliencyMaps
from keepaug.augment.registry import register_augment
from keepaug.functional import boxes_to_mask, draw, region_scores, sample_regions
from keepaug.functional.mixing import overlapping_boxes
from keepaug.functional.regions import Size, box_sizes
from keepaug.ranges import COUNT, HyperParameterError, check_choice

# Random erasing's region: 2% to a third of the image, aspect 0.3 to 1/0.3, both as timm draws them. Ten tries are
# made to draw one that is smaller than the image.
MIN_AREA, MAX_AREA = 0.02, 1 / 3
MIN_ASPECT = 0.3
TRIES = 10


@register_augment('keep-cut')
class KeepCut(KeepRegion):
    """Removes a region drawn among those whose summed saliency is below a quantile.

    Args:
        model: Bare model, for saliency; may be None with `tau=None`.
        num_classes: Number of classes, for 'cutmix'.
        mode: 'cutout' removes a square of `size`; 'erase' draws area and aspect as timm's random erasing does; 'cutmix'
            puts the partner's pixels there, with the size and label of CutMix (KeepCutMix, section 4.2).
        fill: 'zero' (or 'const'), 'rand' for one random colour per image, 'pixel' for one per pixel.
        size: Edge in pixels; None for 16 below 96 px and 40 from there (the paper's). Not used by 'erase'.
        tau: Quantile in [0, 1] of the scores of all windows (the paper's is 0.6); None draws blindly among the same
            windows, which is the control for what saliency adds.
        prob: Probability that an image is cut.
        saliency: A kind of `SaliencySource`, or 'recycled' for `maps`; None: the cheapest pass that the model allows.
        low_scale: Size of the low-resolution copy, relative to the image.
        maps: Maps of past training steps, for 'recycled'; each batch then comes with `where` its crops lie, and goes
            to the network through `recycle`.
        max_count: Regions per image in mode 'erase' are drawn between 1 and this; their area shrinks accordingly.
        windows: 'inside' draws among the windows that lie inside the image. 'overflow' removes as much as published
            Cutout and CutMix: a centre is drawn anywhere and the border cuts off what lies beyond it, which fixes the
            region's size; its place is drawn among the windows of that size, or stays around the centre with
            `tau=None`. Not for 'erase', which draws its own sizes, nor for `cutmix_minmax`, whose boxes lie inside.
        **mixing: Hyper-parameters of `LabelMixer`, for 'cutmix'; `cutmix_alpha` is 1 unless given.

    `last`: `boxes` int64 (B, N, 4) XYXY, empty where an image is not cut, `mask` bool (B, 1, H, W) True where
    removed, `saliency` float32 (B, 1, H, W), None where none was needed and 0 in images that needed none; for 'cutmix'
    also what `LabelMixer` tells.

    Raises:
        ValueError: A value is out of range, or a model is needed and missing.
    """

    ranges = KeepRegion.ranges | {'max_count': COUNT}
    modes = ('cutout', 'erase', 'cutmix')
    takes_too = LabelMixer
    window_kinds = ('inside', 'overflow')

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        mode: str = 'cutout',
        fill: str = 'zero',
        size: int | None = None,
        tau: float | None = 0.6,
        prob: float = 1.0,
        saliency: str | None = None,
        low_scale: float = 0.5,
        maps: SaliencyMaps | None = None,
        max_count: int = 1,
        windows: str = 'inside',
        **mixing: Any,
    ):
        super().__init__(model, num_classes, size, tau, prob, saliency, low_scale, maps)
        self.mode = check_choice('mode', mode, self.modes)
        self.fill = check_choice('fill', fill, FILLS)
        self.max_count = self.check('max_count', max_count)
        self.windows = check_choice('windows', windows, self.window_kinds)
        if windows == 'overflow' and mode == 'erase':
            raise HyperParameterError('windows', 'must be inside for erase, which draws its own sizes', windows)
        if windows == 'overflow' and mixing.get('cutmix_minmax') is not None:
            raise HyperParameterError('windows', 'must be inside beside cutmix_minmax, whose boxes lie inside', windows)
        self.mixer = None
        if mode == 'cutmix':
            self.mixer = _KeepCutMix(self, num_classes=num_classes, prob=prob, **{'cutmix_alpha': 1.0, **mixing})
        elif mixing:
            raise TypeError(f"Unknown, or valid in mode 'cutmix' only: {', '.join(mixing)} (mode is {mode!r}).")
        if maps is not None and mixing.get('mixup_alpha'):
            raise ValueError("saliency 'recycled' cannot separate two blended images: leave out mixup_alpha.")

    @property
    def mixes_labels(self) -> bool:
        return self.mixer is not None

    @property
    def switches(self) -> bool:
        return self.mixer is not None and self.mixer.switches

    @property
    def erases(self) -> bool:
        return self.mode == 'erase'

    def recycle(self, x: Tensor) -> Tensor:
        """The images of the last call, as the network must see them for `maps` to learn from their gradient."""
        if not (self.active and isinstance(self.source, RecycledSaliency)):
            return x
        return self.source.listen(x, self.own_pixels())

    def check_images(self, x: Tensor) -> None:
        if self.mode == 'cutout':
            self.edge(x)
        super().check_images(x)

    def describe(self, size: tuple[int, int]) -> str:
        if self.mixer is not None:
            return f'cutmix, {self.mixer.describe(size)}, {self._place()}'
        region = self._window(size) if self.mode == 'cutout' else f'regions at most {self.max_count}'
        return f'{self.mode}, {region}, fill {self.fill}, probability {self.prob:g}, {self._place()}'

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.mixer is not None:
            self.mixer.strength = self.strength
            x, target = self.mixer(x, target, generator)
            self.last = self.mixer.last | {'saliency': self.mixer.saliency}
            return x, target
        applied = self.draw_used(len(x), x.device, generator)
        saliency, shown = self.measure(x, target, applied)
        boxes, removed = [], torch.zeros_like(shown, dtype=torch.bool)
        out = x
        for size, drawn in self._draw_sizes(x, generator):
            if self.windows == 'inside':
                box = self.place(shown, size, generator)
            else:
                sizes = torch.full((len(x), 2), self.edge(x), device=x.device)
                box = self.place_again(shown, overlapping_boxes(sizes, x.shape[-2:], generator), generator)
            for keep in (drawn, applied):
                if keep is not None:
                    box = torch.where(keep.to(x.device, non_blocking=True)[:, None], box, 0)
            mask = boxes_to_mask(box, x.shape[-2:])
            out = fill_region(out, mask, self.fill, generator)
            boxes.append(box)
            removed = removed | mask
        self.last = {'boxes': torch.stack(boxes, 1), 'mask': removed, 'saliency': saliency}
        return out, target

    def _place(self) -> str:
        if self.windows == 'inside':
            return super()._place()
        over = 'over the border too'
        return f'anywhere, {over}' if self.tau is None else f'{super()._place()}, as large as one anywhere, {over}'

    def place(self, shown: Tensor, size: Size, generator: torch.Generator | None) -> Tensor:
        """Boxes (B, 4) of a size inside the image, drawn below the quantile of what is shown there."""
        return sample_regions(region_scores(shown, size), size, self.tau, 'low', generator)

    def place_again(self, shown: Tensor, boxes: Tensor, generator: torch.Generator | None) -> Tensor:
        """New places (B, 4) for boxes of the sizes that the border left; the same boxes for blind draws."""
        return boxes if self.tau is None else self.place(shown, box_sizes(boxes), generator)

    def _draw_sizes(self, x: Tensor, generator: torch.Generator | None) -> Sequence[tuple[Size, Tensor | None]]:
        """Region sizes, one entry per region, each with the samples (B,) that have it; None for all of them."""
        if self.mode == 'cutout':
            edge = self.edge(x)
            return [((edge, edge), None)]
        return draw_erasing_sizes(len(x), x.shape[-2:], self.max_count, x.device, generator)


class _KeepCutMix(LabelMixer):
    """CutMix whose region lies where the receiving image is least salient; each sample has a place of its own."""

    def __init__(self, cut: KeepCut, **mixing: Any):
        super().__init__(**mixing)
        self.cut = cut
        self.saliency: Tensor | None = None

    def mix(
        self,
        x: Tensor,
        target: Tensor,
        partner: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        self.saliency = None  # stays so where no image of the batch is cut
        return super().mix(x, target, partner, group, generator)

    def place(
        self,
        x: Tensor,
        target: Tensor,
        sizes: Tensor,
        group: Tensor,
        cuts: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        self.saliency, shown = self.cut.measure(x, target, cuts)
        if self.cut.windows == 'inside':
            return self.cut.place(shown, sizes, generator)
        return self.cut.place_again(shown, super().place(x, target, sizes, group, cuts, generator), generator)


def draw_erasing_sizes(
    batch: int,
    size: Sequence[int],
    max_count: int,
    device: torch.device,
    generator: torch.Generator | None,
) -> list[tuple[Tensor, Tensor]]:
    """Sizes as timm's random erasing draws them: count uniform, area uniform over the count, log-aspect uniform.

    Args:
        batch: Number of images B.
        size: Image (H, W).
        max_count: Most regions per image.
        device: Device of the result.
        generator: Source of randomness.

    Returns:
        `max_count` pairs of int64 sizes (B, 2) and bool (B,): whether the image has this region. An image for which
        no try gave a region smaller than itself has none.
    """
    height, width = size
    u = draw.uniform(2, max_count, batch, TRIES, device=device, generator=generator)
    count = draw.integers(1, max_count, batch, 1, device=device, generator=generator)
    area = (MIN_AREA + (MAX_AREA - MIN_AREA) * u[0]) * height * width / count
    aspect = torch.exp((2 * u[1] - 1) * -math.log(MIN_ASPECT))
    edges = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], -1).round().long().clamp(min=1)
    fits = (edges[..., 0] < height) & (edges[..., 1] < width)
    first = fits.long().argmax(-1)[..., None, None].expand(-1, -1, -1, 2)
    edges = edges.gather(2, first).squeeze(2)
    has = fits.any(-1) & (torch.arange(max_count, device=device)[:, None] < count.view(1, -1))
    # Where no try fitted, any size inside the image does: the region is not used.
    edges = torch.where(has[..., None], edges, 1)
    return list(zip(edges, has))
