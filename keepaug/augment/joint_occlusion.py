"""Joint occlusion: every image twice in one batch, whole and with parts removed.

Fong and Vedaldi, Occlusions for Effective Data Augmentation in Image Classification, 2019.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from keepaug.augment.base import BatchAugment, check_edge, draw_applied
from keepaug.augment.fill import fill_region
from keepaug.augment.registry import register_augment
from keepaug.functional import (
    boxes_to_mask,
    cutout_mask,
    draw,
    hide_and_seek_mask,
    norm_grad_saliency,
    region_scores,
    sample_regions,
)
from keepaug.ranges import CELLS, PIXELS, HyperParameterError, Range, check_choice

# The paper occludes squares of 56 px, a quarter of its 224 px images, and jitters them by 16 px, a fourteenth.
SIZE_FRACTION, JITTER_FRACTION = 4, 14
# What timm calls the module before the first block, in the order to look for it: the pooling that ends a ResNet's stem
# is where the paper's ResNet-50 does best (Table 5).
STEM_ENDS = ('maxpool', 'stem', 'patch_embed', 'features.pool0', 'bn1')

# The mask (B, 1, H, W), the boxes (B, 1, 4) and the saliency (B, 1, H, W) of a mode; None for what it has not.
Occlusion = tuple[Tensor, Tensor | None, Tensor | None]


@register_augment('joint-occlusion')
class JointOcclusion(BatchAugment):
    """Doubles a batch: the images as they are, then the same images occluded, so that one forward pass sees both.

    Removed pixels become 0, the mean colour.

    Args:
        model: Bare model, for mode 'saliency'.
        num_classes: Not used.
        mode: 'hide-and-seek' removes cells of a grid, each by its own draw; 'cutout' removes squares anywhere, over the
            border too; 'saliency' removes the square that the model finds most salient, jittered, within the image;
            'none' removes nothing, which is the control for doubled batches.
        grid: Cells per edge, for 'hide-and-seek'.
        keep_patch: Probability that a cell is kept, for 'hide-and-seek'.
        keep_image: Probability that an image's occluded copy is left whole.
        holes: Squares per image, for 'cutout'.
        size: Edge of a square in pixels; None for a quarter of the image's shorter edge.
        layer: Module, or its name, whose activation and gradient make the saliency map; None for the end of the stem.
        jitter: Most pixels the salient square is moved by, each way; None for a fourteenth of the shorter edge.
        only: Gives the occluded images alone, the control for seeing both together (section 4.3).

    `last`: `mask` bool (B, 1, H, W) True where removed from the occluded copies; for 'saliency' `boxes` int64
    (B, 1, 4) XYXY, empty where an image is left whole, and `saliency` float32 (B, 1, H, W), else None.

    Raises:
        ValueError: A value is out of range, or a model is needed and missing.
    """

    ranges = {
        'grid': CELLS,
        'keep_patch': Range(least=0, below=1),
        'keep_image': Range(least=0, below=1),
        'holes': CELLS,
        'size': PIXELS,
        'jitter': Range(least=0, whole=True, unit='pixel'),
    }
    modes = ('hide-and-seek', 'cutout', 'saliency', 'none')

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        mode: str = 'hide-and-seek',
        grid: int = 4,
        keep_patch: float = 0.5,
        keep_image: float = 0.0,
        holes: int = 6,
        size: int | None = None,
        layer: nn.Module | str | None = None,
        jitter: int | None = None,
        only: bool = False,
    ):
        super().__init__(model, num_classes)
        if mode == 'saliency':
            if model is None:
                raise ValueError("mode 'saliency' needs a model: give model=, or choose another mode.")
            layer = stem_end(model) if layer is None else layer
            self._measure = partial(norm_grad_saliency, model, layer)
        self.mode = check_choice('mode', mode, self.modes)
        self.grid = self.check('grid', grid)
        self.keep_patch = self.check('keep_patch', keep_patch)
        self.keep_image = self.check('keep_image', keep_image)
        self.holes = self.check('holes', holes)
        self.size = self.check('size', size)
        self.layer = layer
        self.jitter = self.check('jitter', jitter)
        self.only = only

    def describe(self, size: tuple[int, int]) -> str:
        edge = self._edge(size)
        how = {
            'hide-and-seek': f'{self.grid} x {self.grid} cells, each kept with probability {self.keep_patch:g}',
            'cutout': f'squares {self.holes}, {edge} x {edge} px',
            'saliency': f'{edge} x {edge} px, moved by up to {self._jitter(size)} px',
            'none': 'nothing is occluded',
        }[self.mode]
        batch = 'occluded images alone' if self.only else 'each batch whole and occluded'
        return f'{self.mode}, {how}, left whole with probability {self.keep_image:g}, {batch}'

    def check_images(self, x: Tensor) -> None:
        if self.mode == 'hide-and-seek':
            check_edge('grid', self.grid, x)
        elif self.mode != 'none':
            check_edge('size', self._edge(x.shape[-2:]), x)
        if self.mode == 'saliency':
            check_edge('jitter', self._jitter(x.shape[-2:]), x)
            self._measure(x, None)

    def own_pixels(self) -> Tensor | None:
        return super().own_pixels() if self.only else None  # the first rows are whole

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        draw_mask = {
            'hide-and-seek': self._hide_and_seek,
            'cutout': self._cutout,
            'saliency': self._saliency,
            'none': self._none,
        }[self.mode]
        mask, boxes, saliency = draw_mask(x, target, generator)
        applied = draw_applied(len(x), (1.0 - self.keep_image) * self.strength, x.device, generator)
        if applied is not None:
            mask = mask & applied
            boxes = None if boxes is None else torch.where(applied.view(-1, 1, 1), boxes, 0)
        self.last = {'mask': mask, 'boxes': boxes, 'saliency': saliency}
        occluded = fill_region(x, mask, 'zero', generator)
        if self.only:
            return occluded, target
        return torch.cat([x, occluded]), None if target is None else torch.cat([target, target])

    def _hide_and_seek(self, x: Tensor, target: Tensor | None, generator: torch.Generator | None) -> Occlusion:
        mask = hide_and_seek_mask(
            len(x), x.shape[-2:], self.grid, self.keep_patch, generator=generator, device=x.device
        )
        return mask, None, None

    def _cutout(self, x: Tensor, target: Tensor | None, generator: torch.Generator | None) -> Occlusion:
        return cutout_mask(len(x), x.shape[-2:], self._edge(x.shape[-2:]), self.holes, generator, x.device), None, None

    def _saliency(self, x: Tensor, target: Tensor | None, generator: torch.Generator | None) -> Occlusion:
        saliency = self._measure(x, target)
        saliency = interpolate(saliency, size=x.shape[-2:], mode='bilinear', align_corners=False)
        edge = self._edge(x.shape[-2:])
        # Nothing lies above the highest quantile, so the best windows are drawn among: one, where none are equal.
        boxes = sample_regions(region_scores(saliency, (edge, edge)), (edge, edge), 1.0, 'high', generator)
        boxes = move_inside(boxes, self._jitter(x.shape[-2:]), x.shape[-2:], generator)
        return boxes_to_mask(boxes, x.shape[-2:]), boxes[:, None], saliency

    def _none(self, x: Tensor, target: Tensor | None, generator: torch.Generator | None) -> Occlusion:
        return x.new_zeros(len(x), 1, *x.shape[-2:], dtype=torch.bool), None, None

    def _edge(self, size: Sequence[int]) -> int:
        """Edge of a square for images (H, W)."""
        return self.size or max(1, min(size) // SIZE_FRACTION)

    def _jitter(self, size: Sequence[int]) -> int:
        """Most pixels the salient square of images (H, W) is moved by."""
        return round(min(size) / JITTER_FRACTION) if self.jitter is None else self.jitter


def move_inside(boxes: Tensor, jitter: int, size: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Moves boxes at random, each way at most by so many pixels, and not over the border.

    Args:
        boxes: int64 (B, 4) XYXY, within the image.
        jitter: Most pixels to move by; the shift is uniform on -jitter ... jitter, and stops at the border.
        size: Image (H, W).
        generator: Source of randomness.
    """
    shift = draw.integers(-jitter, jitter, 2, len(boxes), device=boxes.device, generator=generator)
    x0, y0, x1, y1 = boxes.unbind(1)
    left, top = (
        torch.minimum((start + by).clamp(min=0), limit - (stop - start))
        for start, stop, by, limit in zip((x0, y0), (x1, y1), shift, size[::-1])
    )
    return torch.stack([left, top, left + x1 - x0, top + y1 - y0], dim=1)


def stem_end(model: nn.Module) -> str:
    """Name of the last module before the first block of a timm model.

    Raises:
        HyperParameterError: The model does not tell.
    """
    names = {name for name, _ in model.named_modules()}
    features = [entry['module'] for entry in getattr(model, 'feature_info', ())]
    for name in (*STEM_ENDS, *features[:1]):
        if name in names:
            return name
    raise HyperParameterError('layer', f'must name a module of {type(model).__name__}, which has no default', None)
