"""Where an augmentation gets its saliency maps: the full pass, or a cheaper one."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug.functional import input_saliency
from keepaug.models.early_exit import EarlyExit
from keepaug.models.resolution import at_resolution
from keepaug.ranges import HyperParameterError, Range, check_choice

_logger = logging.getLogger(__name__)


class Pass(NamedTuple):
    """A way to a saliency map.

    Attributes:
        low: On a reduced copy of the image.
        early: From the logit of the early head, through the layers before it only.
        price: Cost of a training step relative to the plain one, as planned for a ResNet-18 on 32 px images.
    """

    low: bool
    early: bool
    price: float


PASSES = {
    'full': Pass(low=False, early=False, price=1.7),
    'low': Pass(low=True, early=False, price=1.2),
    'early': Pass(low=False, early=True, price=1.2),
    'low-early': Pass(low=True, early=True, price=1.06),
}
LOW = tuple(name for name, way in PASSES.items() if way.low)
EARLY = tuple(name for name, way in PASSES.items() if way.early)
# Edge of the reduced image relative to the image; below a tenth, 22 pixels of 224, nothing is left to look at.
LOW_SCALE = Range(least=0.1, most=1)
# Sizes that a pass over a part of a batch may have.
BATCH_SIZES = 8
# Unless one is asked for, the first of these that a model can run.
PREFERENCE = ('low', 'low-early', 'full')


class SaliencySource:
    """Saliency maps of a model at image size, by one of the passes of KeepAugment, section 3.1.

    Args:
        model: Bare model, or an `EarlyExit` around it.
        kind: A name in `PASSES`: 'full'; 'low' for a bicubic copy of `low_scale`; 'early' for the logit of the early
            head; 'low-early' for both. None for 'low' where the model can, else 'low-early' where it has an early
            head, else 'full', with one log line.
        low_scale: Edge of the copy relative to the image, in (0, 1].

    Raises:
        ValueError: A value is out of range, or there is no model, or no early head where one is needed.
    """

    def __init__(self, model: nn.Module | None, kind: str | None = None, low_scale: float = 0.5):
        if model is None:
            raise ValueError('Saliency needs a model: give model=, or tau=None to draw regions blindly.')
        if kind is not None:
            check_choice('saliency', kind, PASSES)
        LOW_SCALE.check('low_scale', low_scale)
        self.model, self.early = model, None
        if isinstance(model, EarlyExit):
            self.model, self.early = model.backbone, model.early_classifier()
        if kind is not None and PASSES[kind].early and self.early is None:
            raise HyperParameterError('saliency', 'must come with an early head, model=keepaug.EarlyExit(model)', kind)
        self.kind = kind
        self.chosen: str | None = None  # of the last image size that was new
        self.low_scale = low_scale
        self._runners: dict[tuple[int, ...], tuple[nn.Module, tuple[int, ...]]] = {}

    def __call__(self, x: Tensor, target: Tensor | None, used: Tensor | None = None) -> Tensor:
        """Measures a batch.

        Args:
            x: Images (B, C, H, W).
            target: Their targets.
            used: bool (B,), images whose maps are needed; None for all. Where it lies on the CPU, so that the host may
                look at it, others are left out, and have a map of 0 or their own.

        Returns:
            The map (B, 1, H, W), float32.
        """
        if used is None or used.device.type != 'cpu':
            return self._measure(x, target)
        rows = rows_to_measure(used)
        if len(rows) == len(x):
            return self._measure(x, target)
        maps = torch.zeros(len(x), 1, *x.shape[-2:], device=x.device)
        if len(rows):
            rows = rows.to(x.device, non_blocking=True)
            maps[rows] = self._measure(x[rows], None if target is None else target[rows])
        return maps

    def _measure(self, x: Tensor, target: Tensor | None) -> Tensor:
        """The map (B, 1, H, W) of each image of a batch."""
        size = x.shape[-2:]
        model, pass_size = self.resolve(size, x)
        saliency = input_saliency(model, x, target, size=pass_size)
        if pass_size == size:
            return saliency
        return F.interpolate(saliency, size=size, mode='bilinear', align_corners=False)

    def resolve(self, size: tuple[int, ...], like: Tensor) -> tuple[nn.Module, tuple[int, ...]]:
        """The module to run and the size to run it at, for images of a size; decided once per size.

        Args:
            size: Image (H, W).
            like: Any batch of such images, for channels, type and device.

        Raises:
            ValueError: A reduced image was asked for and the model cannot run at that size.
        """
        if size not in self._runners:
            self._runners[size] = self._choose(size, like)
        return self._runners[size]

    def _choose(self, size: tuple[int, ...], like: Tensor) -> tuple[nn.Module, tuple[int, ...]]:
        name = type(self.model).__name__
        low = low_size(size, self.low_scale)
        kinds = PREFERENCE if self.kind is None else (self.kind,)
        for kind in kinds:
            way = PASSES[kind]
            model = self.early if way.early else self.model
            if model is None:
                continue
            chosen = at_resolution(model, low, like) if way.low else (model, size)
            if chosen is None:
                continue
            self.chosen = kind
            if kind != kinds[0]:
                _logger.info(
                    f'{name} cannot run at {low[0]} x {low[1]} px, so saliency uses the {kind} pass: about '
                    f'{way.price} times the plain step instead of {PASSES[kinds[0]].price}.'
                )
            return chosen
        way_out = kind.removeprefix('low-') if PASSES[kind].early else 'full'
        raise HyperParameterError(
            'saliency',
            f'must be {way_out}, unless the low scale changes: {name} cannot run at {low[0]} x {low[1]} px',
            kind,
        )


def rows_to_measure(used: Tensor) -> Tensor:
    """Numbers of images to measure (N,): those used (B,) and some others, so that few sizes of a batch occur.

    A device may choose its algorithms anew for every size.
    """
    step = math.ceil(len(used) / BATCH_SIZES)
    count = min(len(used), math.ceil(int(used.sum()) / step) * step)
    return used.long().argsort(descending=True, stable=True)[:count]


def low_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """The reduced image (h, w) in pixels of an image (H, W)."""
    height, width = size
    return max(1, round(height * scale)), max(1, round(width * scale))
