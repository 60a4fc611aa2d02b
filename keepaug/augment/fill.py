"""What removed pixels are replaced with; images are normalised, so 0 is the mean colour."""

from collections.abc import Callable

import torch
from torch import Tensor

from keepaug.functional import draw

# Draws values for a batch's shape (B, C, H, W). `pixel` and `rand` are N(0, 1), as in timm's random erasing.
Fill = Callable[[Tensor, torch.Generator | None], Tensor | float]


def _zero(x: Tensor, generator: torch.Generator | None) -> float:
    return 0.0


def _rand(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """One colour per image."""
    return draw.normal(len(x), x.shape[1], 1, 1, dtype=x.dtype, device=x.device, generator=generator)


def _pixel(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """One colour per pixel."""
    return draw.normal(*x.shape, dtype=x.dtype, device=x.device, generator=generator)


# `const` is random erasing's name for zero.
FILLS: dict[str, Fill] = {'zero': _zero, 'const': _zero, 'rand': _rand, 'pixel': _pixel}


def fill_region(x: Tensor, mask: Tensor, fill: str, generator: torch.Generator | None) -> Tensor:
    """A copy of the images with the masked pixels replaced.

    Args:
        x: Images (B, C, H, W).
        mask: bool (B, 1, H, W), True where pixels are replaced.
        fill: A name in `FILLS`.
        generator: Source of randomness.
    """
    # The images come first because the result takes its memory format from there: channels-last stays channels-last.
    return torch.where(~mask, x, FILLS[fill](x, generator))
