"""Masks drawn without looking at the image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from keepaug.functional import draw
from keepaug.functional.regions import boxes_to_mask


def cutout_mask(
    batch: int,
    size: Sequence[int],
    hole: int,
    holes: int = 1,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Squares with centres uniform over the image, which may overflow its border (DeVries and Taylor, 2017).

    Args:
        batch: Number of masks B.
        size: Image (H, W).
        hole: Edge of a square in pixels.
        holes: Squares per image.
        generator: Source of randomness; torch's default one if None.
        device: Device of the masks.

    Returns:
        bool (B, 1, H, W), True where the image is removed.

    Raises:
        ValueError: `hole` or `holes` is below 1.
    """
    if hole < 1 or holes < 1:
        raise ValueError(f'A mask needs at least one hole of at least 1 px, got {hole = }, {holes = }.')
    height, width = size
    y0, x0 = (
        draw.integers(0, edge - 1, batch * holes, device=device, generator=generator) - hole // 2 for edge in size
    )
    boxes = torch.stack([x0, y0, x0 + hole, y0 + hole], dim=1)
    return boxes_to_mask(boxes, size).view(batch, holes, height, width).any(1, keepdim=True)


def hide_and_seek_mask(
    batch: int,
    size: Sequence[int],
    grid: int,
    keep_patch: float,
    keep_image: float = 0.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Cells of a grid, each removed by its own draw (Singh and Lee, Hide-and-Seek, 2017; Occlusions, section 3).

    Args:
        batch: Number of masks B.
        size: Image (H, W); the grid's lines lie at i * H // grid and i * W // grid.
        grid: Cells per edge.
        keep_patch: Probability that a cell is kept.
        keep_image: Probability that an image is kept whole.
        generator: Source of randomness; torch's default one if None.
        device: Device of the masks.

    Returns:
        bool (B, 1, H, W), True where the image is removed.

    Raises:
        ValueError: `grid` is below 1.
    """
    if grid < 1:
        raise ValueError(f'A grid has at least one cell per edge, got {grid = }.')
    removed = draw.uniform(batch, grid, grid, device=device, generator=generator) >= keep_patch
    if keep_image > 0.0:
        removed &= draw.uniform(batch, 1, 1, device=device, generator=generator) >= keep_image
    return cells_to_mask(removed, size)


def grid_mask(
    batch: int,
    size: Sequence[int],
    unit: Sequence[int],
    keep: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Squares in rows and columns, of one size and at one distance in each image (Chen et al., GridMask, 2020).

    Args:
        batch: Number of masks B.
        size: Image (H, W).
        unit: Smallest and largest distance from one square to the next, in pixels, drawn uniformly.
        keep: Share of that distance that lies between two squares, r in the paper; `2 r - r^2` of an image is kept.
        generator: Source of randomness; torch's default one if None.
        device: Device of the masks.

    Returns:
        bool (B, 1, H, W), True where the image is removed.

    Raises:
        ValueError: The distances are not 1 px <= smallest <= largest.
    """
    low, high = unit
    if not 1 <= low <= high:
        raise ValueError(f'A grid of squares needs distances from 1 px on, the smaller first, got {unit = }.')
    distance = draw.integers(low, high, batch, 1, device=device, generator=generator)
    gap = (keep * distance).round().long()
    height, width = (
        (
            torch.arange(edge, device=device)
            + (distance * draw.uniform(batch, 1, device=device, generator=generator)).long()
        )
        % distance
        >= gap
        for edge in size
    )
    return (height[:, :, None] & width[:, None])[:, None]


def cells_to_mask(cells: Tensor, size: Sequence[int]) -> Tensor:
    """Cells of a grid as pixels.

    Args:
        cells: bool (B, h, w).
        size: Image (H, W); the grid's lines lie at i * H // h and i * W // w.

    Returns:
        bool (B, 1, H, W).
    """
    # Pixel y belongs to the last cell whose line i * H // h is at most y.
    rows, cols = (
        ((torch.arange(edge, device=cells.device) + 1) * count - 1) // edge
        for edge, count in zip(size, cells.shape[1:])
    )
    return cells[:, rows][:, :, cols][:, None]
