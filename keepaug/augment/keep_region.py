"""What selective cut and selective paste share: a region per image, drawn by the quantile of its saliency."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from keepaug.augment.base import BatchAugment, check_edge, default_window, flip_coins
from keepaug.augment.recycled import RECYCLED, RecycledSaliency, SaliencyMaps
from keepaug.augment.saliency import LOW_SCALE, SaliencySource
from keepaug.ranges import PIXELS, PROBABILITY, Range


class KeepRegion(BatchAugment):
    """An augmentation that asks where an image is salient before it touches a region (KeepAugment, section 3).

    Args:
        model: Bare model, for saliency; may be None with `tau=None`.
        num_classes: Number of classes.
        size: Edge of a square region in pixels; None for 16 below 96 px and 40 from there (the paper's).
        tau: Quantile in [0, 1] of the scores of all windows (the paper's is 0.6); None draws blindly among the same
            windows, which is the control for what saliency adds.
        prob: Probability that an image is augmented.
        saliency: A kind of `SaliencySource`, or 'recycled' for `maps`; None: the cheapest pass that the model allows.
        low_scale: Size of the low-resolution copy, relative to the image.
        maps: Maps of past training steps, for 'recycled'.

    Raises:
        ValueError: A value is out of range, or a model is needed and missing.
    """

    ranges = {
        'size': PIXELS,
        'tau': Range(least=0, most=1, instead='none to draw blindly'),
        'prob': PROBABILITY,
        'low_scale': LOW_SCALE,
    }

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        size: int | None = None,
        tau: float | None = 0.6,
        prob: float = 1.0,
        saliency: str | None = None,
        low_scale: float = 0.5,
        maps: SaliencyMaps | None = None,
    ):
        super().__init__(model, num_classes)
        self.size = self.check('size', size)
        self.tau = self.check('tau', tau)
        self.prob = self.check('prob', prob)
        self.saliency = 'none, drawn blindly' if tau is None else saliency or 'low where the model can'
        if (maps is None) == (saliency == RECYCLED):
            raise ValueError(
                f"saliency 'recycled' and maps=SaliencyMaps(...) go together, got {saliency = }, {maps = }."
            )
        self.source: SaliencySource | RecycledSaliency | None = None
        if tau is not None and maps is not None:
            self.recycled, self.source = maps, RecycledSaliency(maps)
        elif tau is not None:
            self.source = SaliencySource(model, saliency, low_scale)

    def __call__(
        self,
        x: Tensor,
        target: Tensor | None,
        generator: torch.Generator | None = None,
        where: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Augments a batch; see `BatchAugment`.

        Args:
            x: Images (B, C, H, W).
            target: Their targets.
            generator: Source of randomness; torch's default one if None.
            where: int64 (B, 9), where the images lie in those that `maps` are of, as `PlacedImages` tells it; needed
                with them alone.

        Raises:
            ValueError: `where` and `maps` do not come together.
        """
        if (where is None) != (self.recycled is None):
            raise ValueError('Recycled saliency, and only that, needs where=: the places of the crops in their images.')
        if where is not None and isinstance(self.source, RecycledSaliency):
            self.source.where = where
        return super().__call__(x, target, generator)

    def check_images(self, x: Tensor) -> None:
        if self.source is not None:
            self.source.resolve(x.shape[-2:], x)
            self.saliency = self.source.chosen or self.saliency  # now known, for the log

    def describe(self, size: tuple[int, int]) -> str:
        return f'{self._window(size)}, probability {self.prob:g}, {self._place()}'

    def _window(self, size: Sequence[int]) -> str:
        edge = self.size or default_window(*size)
        return f'{edge} x {edge} px'

    def _place(self) -> str:
        """Where regions go, in words."""
        return 'anywhere inside the image' if self.tau is None else f'tau {self.tau:g}, saliency {self.saliency}'

    def draw_used(self, batch: int, device: torch.device, generator: torch.Generator | None) -> Tensor | None:
        """Which images (B,) are augmented; None where that is all of them, and nothing is drawn."""
        prob = self.prob * self.strength
        return None if prob >= 1.0 else flip_coins(batch, prob, device, generator)

    def measure(self, x: Tensor, target: Tensor | None, used: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """Measures the saliency for regions to be drawn by.

        Args:
            x: Images (B, C, H, W).
            target: Their targets.
            used: bool (B,), images that need it; None for all. The others cost nothing where the host can see which
                they are.

        Returns:
            The saliency (B, 1, H, W), None for blind draws, and what regions are scored on: it, or a flat map.
        """
        if self.source is None:
            return None, x.new_zeros(len(x), 1, *x.shape[-2:], dtype=torch.float32)
        saliency = self.source(x, target, used)
        return saliency, saliency

    def edge(self, x: Tensor) -> int:
        """Edge of the square region for images of this size.

        Raises:
            ValueError: It does not fit into them.
        """
        return check_edge('size', self.size or default_window(*x.shape[-2:]), x)
