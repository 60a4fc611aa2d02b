"""Where an augmentation gets its saliency maps: the full pass, or a cheaper one."""
import logging

import torch.nn.functional as F
from torch import Tensor, nn

from keepaug.functional import input_saliency
from keepaug.models.resolution import at_resolution

_logger = logging.getLogger(__name__)

SALIENCIES = ('full', 'low')


class SaliencySource:
    """Saliency maps of a model at image size, by one of the passes of KeepAugment, section 3.1.

    Args:
        model: Bare model.
        kind: 'full'; 'low' for a bicubic copy of `low_scale`; None for 'low' where the model can, else 'full', said
            in one log line.
        low_scale: Edge of the copy relative to the image, in (0, 1].

    Raises:
        ValueError: A value is out of range, or there is no model.
    """

    def __init__(self, model: nn.Module | None, kind: str | None = None, low_scale: float = 0.5):
        if model is None:
            raise ValueError('Saliency needs a model: give model=, or tau=None to draw regions blindly.')
        if kind is not None and kind not in SALIENCIES:
            raise ValueError(f'saliency is one of {", ".join(SALIENCIES)}, got {kind!r}.')
        if not 0. < low_scale <= 1.:
            raise ValueError(f'low_scale is a fraction of the image in (0, 1], got {low_scale}.')
        self.model = model
        self.kind = kind
        self.low_scale = low_scale
        self._runners: dict[tuple[int, int], nn.Module] = {}

    def __call__(self, x: Tensor, target: Tensor | None) -> Tensor:
        """The map (B, 1, H, W), float32, of a batch (B, C, H, W)."""
        size = tuple(x.shape[-2:])
        model, pass_size = self.resolve(size, x)
        saliency = input_saliency(model, x, target, size=pass_size)
        if pass_size == size:
            return saliency
        return F.interpolate(saliency, size=size, mode='bilinear', align_corners=False)

    def resolve(self, size: tuple[int, int], like: Tensor) -> tuple[nn.Module, tuple[int, int]]:
        """The module to run and the size to run it at, for images of a size; decided once per size.

        Args:
            size: Image (H, W).
            like: Any batch of such images, for channels, type and device.

        Raises:
            ValueError: 'low' was asked for and the model cannot run at that size.
        """
        if size not in self._runners:
            self._runners[size] = self._choose(size, like)
        return self._runners[size]

    def _choose(self, size: tuple[int, int], like: Tensor) -> tuple[nn.Module, tuple[int, int]]:
        if self.kind == 'full':
            return self.model, size
        low = tuple(max(1, round(edge * self.low_scale)) for edge in size)
        runner = at_resolution(self.model, low, like)
        if runner is not None:
            return runner, low
        name = type(self.model).__name__
        if self.kind == 'low':
            raise ValueError(
                f'saliency low is not possible: {name} cannot run at {low[0]} x {low[1]} px; choose full.')
        _logger.info(
            f'{name} cannot run at {low[0]} x {low[1]} px, so saliency takes the full pass: '
            f'about 1.7 times the plain step instead of 1.2.')
        return self.model, size
