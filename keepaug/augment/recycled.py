"""Saliency without a pass of its own, from the backward passes of earlier training steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from keepaug.functional.saliency_maps import (
    Places,
    average_rows,
    blend_maps,
    decode_maps,
    encode_maps,
    lay_back,
    read_windows,
)
from keepaug.ranges import Range

RECYCLED = 'recycled'
MAP_SIZE = 16
MAP_SIZES = Range(least=1, most=256, whole=True)
KEPT = 0.5  # how much of its value a cell keeps when it is seen again


class SaliencyMaps:
    """A small saliency map of every training image, written by backward passes and read before forward passes.

    A map holds the channel-wise maximum of the absolute gradient of the training loss with respect to the batch as the
    network saw it. That is one layer more than a step computes anyway, so it costs little.

    Args:
        images: Number of training images N; None to `open` later.
        cells: Cells n along each edge of a map.
        kept: Share of its value that a cell keeps when it is seen again.
        device: Where the maps are kept, which is where the batches are.

    Attributes:
        levels: uint8 (N, n, n), what `encode_maps` gives.
        scales: float32 (N,).
        written: bool (N,), images seen since this was last cleared.

    Raises:
        HyperParameterError: `cells` is out of range.
    """

    def __init__(
        self,
        images: int | None = None,
        cells: int = MAP_SIZE,
        kept: float = KEPT,
        device: torch.device | str = 'cpu',
    ):
        self.cells = MAP_SIZES.check('cells', cells)
        self.kept = kept
        self.levels = self.scales = self.written = torch.empty(0)
        if images is not None:
            self.open(images, device)

    def __len__(self) -> int:
        return len(self.levels)

    def open(self, images: int, device: torch.device | str) -> None:
        """Makes room for so many images, none of which was seen."""
        self.levels = torch.zeros(images, self.cells, self.cells, dtype=torch.uint8, device=device)
        self.scales = torch.zeros(images, device=device)
        self.written = torch.zeros(images, dtype=torch.bool, device=device)

    def read(self, where: Tensor, size: Sequence[int]) -> Tensor:
        """The maps float32 (B, 1, H, W) of crops resized to (H, W); zero for an image that was never seen.

        Args:
            where: int64 (B, 9); see `Places`.
            size: The crops (H, W) in pixels.
        """
        places = Places.from_rows(where)
        return read_windows(*self._decode(places), places, size)

    def listen(self, x: Tensor, where: Tensor, kept: Tensor | None = None) -> Tensor:
        """The same images; when a loss flows back to them, their gradient is written into the maps.

        Args:
            x: Images (B', C, H, W) as the network is to see them. The first B of them count.
            where: int64 (B, 9), where they lie in their images.
            kept: bool (B, 1, H, W), where they show their own image; None for everywhere.
        """
        heard = x.detach().requires_grad_()
        heard.register_hook(_Listener(self, where, kept))
        return heard

    @torch.no_grad()
    def write(self, where: Tensor, saliency: Tensor, kept: Tensor | None = None) -> None:
        """Writes maps (B, 1, H, W) of crops into those of their images; arguments as in `listen`."""
        places = Places.from_rows(where)
        if kept is None:
            kept = torch.ones_like(saliency, dtype=torch.bool)
        values, seen = average_rows(*lay_back(saliency, kept, places, self.cells), places.image)
        levels, scales = encode_maps(*blend_maps(self._decode(places), (values, seen), self.kept))
        # Several rows of an image write the same, so that their order does not count.
        self.levels[places.image] = levels
        self.scales[places.image] = scales
        self.written[places.image] = True

    def _decode(self, places: Places) -> tuple[Tensor, Tensor]:
        return decode_maps(self.levels[places.image], self.scales[places.image])


class _Listener:
    """A tensor hook: the gradient of a batch to its saliency, and into the maps."""

    def __init__(self, maps: SaliencyMaps, where: Tensor, kept: Tensor | None):
        self.maps = maps
        self.where = where
        self.kept = kept

    def __call__(self, gradient: Tensor) -> None:
        saliency = gradient[: len(self.where)].detach().abs().amax(1, keepdim=True)
        self.maps.write(self.where, saliency, self.kept)


class RecycledSaliency:
    """Saliency maps of crops at image size, from earlier training steps; takes the place of a `SaliencySource`.

    Args:
        maps: Where they are kept.

    Attributes:
        where: int64 (B, 9), where the crops of the batch at hand lie.
    """

    chosen = RECYCLED

    def __init__(self, maps: SaliencyMaps):
        self.maps = maps
        self.where: Tensor

    def __call__(self, x: Tensor, target: Tensor | None, used: Tensor | None = None) -> Tensor:
        """The map (B, 1, H, W), float32, of a batch (B, C, H, W); all are read, for that costs next to nothing."""
        return self.maps.read(self.where, x.shape[-2:])

    def listen(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """The same images, which write into the maps: `SaliencyMaps.listen` for the batch at hand."""
        return self.maps.listen(x, self.where, kept)

    def resolve(self, size: tuple[int, ...], like: Tensor) -> None:
        """Maps of any size serve images of any size."""
