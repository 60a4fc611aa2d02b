"""Small saliency maps of whole images, put together from crops and read for crops.

A map has as many cells along each edge of its image, whatever the image's size. `Places` says where a crop lies. All
functions work per sample on whole batches, on any device, without waiting for it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# A cell is seen where at least half of it is; a little less, for products that are rounded to ten bits on a GPU.
LEAST_COVER = 0.499
LEVELS = 254  # of a byte: 0 is for cells that were never seen, 1 for zero


class Places(NamedTuple):
    """Where crops lie in their images.

    Attributes:
        image: int64 (B,), its number.
        size: int64 (B, 2), height and width in pixels of the image, at the scale that the crop was cut at.
        box: int64 (B, 4), the crop in these pixels, XYXY and half-open; it may reach over the border.
        flipped: bool (B, 2), whether the crop was turned left to right and upside down afterwards.
    """

    image: Tensor
    size: Tensor
    box: Tensor
    flipped: Tensor

    @classmethod
    def from_rows(cls, rows: Tensor) -> 'Places':
        """Takes apart int64 rows (B, 9) of image, height, width, x0, y0, x1, y1 and the two flips."""
        return cls(rows[:, 0], rows[:, 1:3], rows[:, 3:7], rows[:, 7:9].bool())

    def to_cells(self, size: Sequence[int], cells: int) -> tuple[Tensor, Tensor]:
        """How much of each cell lies under each row, and under each column, of crops resized to (H, W).

        Args:
            size: The crop (H, W) in pixels.
            cells: Cells along each edge.

        Returns:
            float32 (B, cells, H) and (B, cells, W): lengths in units of a cell's edge; 0 beyond the image's border.
        """
        x0, y0, x1, y1 = self.box.unbind(1)
        height, width = self.size.unbind(1)
        horizontal, vertical = self.flipped.unbind(1)
        return (_overlap(y0, y1, height, vertical, size[0], cells), _overlap(x0, x1, width, horizontal, size[1], cells))


def _overlap(start: Tensor, stop: Tensor, length: Tensor, flipped: Tensor, pixels: int, cells: int) -> Tensor:
    """Lengths (B, cells, pixels) that cells and pixels have in common along one direction, in units of a cell."""
    unit = cells / length.float()
    start, extent = start * unit, (stop - start) * unit / pixels
    number = torch.arange(pixels, device=length.device)
    number = torch.where(flipped[:, None], pixels - 1 - number, number)
    lower = start[:, None] + number * extent[:, None]
    upper = lower + extent[:, None]
    cell = torch.arange(cells, device=length.device)[:, None]
    return (torch.minimum(upper[:, None], cell + 1) - torch.maximum(lower[:, None], cell)).clamp(min=0)


def lay_back(saliency: Tensor, kept: Tensor, places: Places, cells: int) -> tuple[Tensor, Tensor]:
    """Brings the saliency of crops to the cells of their images, by the average over the pixels in each cell.

    A crop's map is divided by its mean over the pixels that count, since only its shape matters. A map that is zero or
    not finite there is left out.

    Args:
        saliency: Maps (B, 1, H, W) of crops, never negative.
        kept: bool (B, 1, H, W), where the crop shows its own image; what lies beyond the image's border is known from
            its place.
        places: Where the crops lie.
        cells: Cells n along each edge.

    Returns:
        float32 values (B, n, n), and bool (B, n, n): the cells that are seen, at least half of each.
    """
    with torch.autocast(saliency.device.type, enabled=False):
        rows, columns = places.to_cells(saliency.shape[-2:], cells)
        # A pixel is the image's where half of it or more lies in a cell.
        inside = [
            (part.sum(1) >= 0.5 * part.sum(1).amax(1, keepdim=True)) & (part.sum(1) > 0) for part in (rows, columns)
        ]
        counted = kept[:, 0] & inside[0][:, :, None] & inside[1][:, None, :]
        values = torch.where(counted, saliency[:, 0].float(), 0.0)
        mean = values.sum((1, 2), keepdim=True) / counted.sum((1, 2), keepdim=True)
        valid = mean.isfinite() & (mean > 0)
        values = torch.where(valid, values / mean, 0.0)
        columns = columns.transpose(1, 2)
        sums, cover = rows @ values @ columns, rows @ counted.float() @ columns
        seen = (cover >= LEAST_COVER) & valid
        return torch.where(seen, sums / cover, 0.0), seen


def average_rows(values: Tensor, seen: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Averages what several rows saw of one image, cell by cell, in the order of the rows.

    Args:
        values: (B, n, n).
        seen: bool (B, n, n).
        index: int64 (B,), the image of each row.

    Returns:
        Values and seen cells of the same shapes; all rows of an image hold the same, to the last bit.
    """
    same = index[:, None] == index
    weight = same.float()
    with torch.autocast(values.device.type, enabled=False):
        sums, counts = (
            (weight @ part.float().flatten(1)).view_as(values) for part in (torch.where(seen, values, 0.0), seen)
        )
    # A product of matrices may round equal rows differently: all take what the first of them got.
    order = torch.arange(len(index), device=index.device)
    first = torch.where(same, order, len(index)).amin(1)
    return (sums / counts.clamp(min=1))[first], (counts > 0)[first]


def blend_maps(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], share: float) -> tuple[Tensor, Tensor]:
    """Maps (values, seen) after another look: cells seen before keep `share` of their value.

    Returns:
        Values and seen cells.
    """
    (old_values, old_seen), (new_values, new_seen) = old, new
    both = share * old_values + (1.0 - share) * new_values
    return torch.where(old_seen & new_seen, both, torch.where(new_seen, new_values, old_values)), old_seen | new_seen


def encode_maps(values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, n, n) as bytes of their square roots, 0 for cells that were never seen, and one scale (B,) for each."""
    scale = torch.where(seen, values, 0.0).amax((1, 2))
    share = values / scale[:, None, None].clamp(min=torch.finfo(torch.float32).tiny)
    levels = (1.0 + LEVELS * share.clamp(0, 1).sqrt()).round()
    return torch.where(seen, levels, 0.0).to(torch.uint8), scale


def decode_maps(levels: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Values float32 (B, n, n) and seen cells of what `encode_maps` gave."""
    seen = levels > 0
    share = ((levels.float() - 1.0) / LEVELS).square()
    return torch.where(seen, share * scale[:, None, None], 0.0), seen


def read_windows(values: Tensor, seen: Tensor, places: Places, size: Sequence[int]) -> Tensor:
    """The maps of crops, read from those of their images.

    Cells that were never seen take the mean of those that were. Pixels beyond the border show no evidence of the image.

    Args:
        values: (B, n, n).
        seen: bool (B, n, n).
        places: Where the crops lie.
        size: The crops (H, W) in pixels.

    Returns:
        float32 (B, 1, H, W), zero beyond the border, and everywhere for an image that was never seen.
    """
    with torch.autocast(values.device.type, enabled=False):
        mean = torch.where(seen, values, 0.0).sum((1, 2), keepdim=True) / seen.sum((1, 2), keepdim=True).clamp(min=1)
        # Lengths to shares of a pixel: the largest sum is that of one that lies wholly inside.
        rows, columns = (
            part / part.sum(1, keepdim=True).amax(2, keepdim=True) for part in places.to_cells(size, values.shape[-1])
        )
        return (rows.transpose(1, 2) @ torch.where(seen, values, mean) @ columns)[:, None]
