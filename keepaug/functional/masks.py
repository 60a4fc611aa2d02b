"""Masks drawn without looking at the image."""
import torch
from torch import Tensor

from keepaug.functional import draw
from keepaug.functional.regions import boxes_to_mask


def cutout_mask(
        batch: int,
        size: tuple[int, int],
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
        draw.integers(0, edge - 1, batch * holes, device=device, generator=generator) - hole // 2 for edge in size)
    boxes = torch.stack([x0, y0, x0 + hole, y0 + hole], dim=1)
    return boxes_to_mask(boxes, size).view(batch, holes, height, width).any(1, keepdim=True)
