"""Factors that drop features: 0 where a feature is dropped, and what keeps the mean elsewhere.

Every function takes the features only for their shape, type and device, and the probability as a tensor on that device,
so that it can change from epoch to epoch without involving the host.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from keepaug.functional import draw


def dropout_factor(x: Tensor, prob: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Dropout (Srivastava et al., 2014): every feature by its own draw.

    Args:
        x: Features (B, C, H, W).
        prob: Probability that a feature is dropped, () in [0, 1).
        generator: Source of randomness; torch's default one if None.

    Returns:
        (B, C, H, W) of the type of `x`.
    """
    return _inverted(_keep(x.shape, x, prob, generator), x, prob)


def spatial_dropout_factor(x: Tensor, prob: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Spatial Dropout (Tompson et al., 2015): every map of a sample as a whole.

    Args:
        x: Features (B, C, H, W).
        prob: Probability that a map is dropped, () in [0, 1).
        generator: Source of randomness; torch's default one if None.

    Returns:
        (B, C, 1, 1) of the type of `x`.
    """
    return _inverted(_keep((*x.shape[:2], 1, 1), x, prob, generator), x, prob)


def drop_block_factor(x: Tensor, prob: Tensor, block: int, generator: torch.Generator | None = None) -> Tensor:
    """DropBlock (Ghiasi et al., 2018, Algorithm 1): squares that lie inside the map, each map by its own draw.

    The chance that a square begins at a place is chosen so that the probability is met except for overlaps (its Eq. 1);
    what is left is scaled by the share of the batch that is left.

    Args:
        x: Features (B, C, H, W).
        prob: Probability that a feature is dropped, () in [0, 1).
        block: Edge of a square, in places; on smaller maps their own edge.
        generator: Source of randomness; torch's default one if None.

    Returns:
        (B, C, H, W) of the type of `x`.
    """
    height, width = x.shape[-2:]
    rows, cols = min(block, height), min(block, width)
    places = height - rows + 1, width - cols + 1
    chance = prob * (height * width / (rows * cols * places[0] * places[1]))
    starts = ~_keep((*x.shape[:2], *places), x, chance, generator)
    dropped = F.max_pool2d(F.pad(starts.float(), (cols - 1, cols - 1, rows - 1, rows - 1)), (rows, cols), stride=1)
    kept = 1.0 - dropped
    return (kept * (kept.numel() / kept.sum().clamp(min=1.0))).to(x.dtype)


def _keep(shape: tuple[int, ...], x: Tensor, prob: Tensor, generator: torch.Generator | None) -> Tensor:
    return draw.uniform(*shape, dtype=torch.float32, device=x.device, generator=generator) >= prob


def _inverted(keep: Tensor, x: Tensor, prob: Tensor) -> Tensor:
    return keep.to(x.dtype) / (1.0 - prob).to(x.dtype)
