"""Rectangular regions of an image: how salient each is, and drawing one by a quantile of that.

All functions work per sample on whole batches, on any device, without waiting for it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from keepaug.functional import draw

# Size of a region: one (h, w) for all samples, or an integer tensor (B, 2) with one row per sample.
Size = tuple[int, int] | Tensor


def region_scores(saliency: Tensor, size: Size) -> Tensor:
    """Sums a saliency map over every window of a size (KeepAugment, Eq. 1).

    The map is rounded to a grid on which every sum is exact in float64 (about 2^-37 of the largest value at
    224 x 224 px), so windows of equal content have equal scores. A sample whose map is not finite is scored as flat.
    Time and memory are linear in pixels: one summed-area table, whatever the window.

    Args:
        saliency: Map (B, 1, H, W), of any floating type and sign.
        size: Window (h, w) in pixels, or an int tensor (B, 2) of one window per sample, which may be empty.

    Returns:
        float64 scores. For one size (B, H - h + 1, W - w + 1); for sizes per sample (B, H, W), nan where a window
        with that top-left corner leaves the image.

    Raises:
        ValueError: The map is not (B, 1, H, W), or the one window does not fit into it.
    """
    if saliency.ndim != 4 or saliency.shape[1] != 1:
        raise ValueError(f'saliency must be (B, 1, H, W), got shape {tuple(saliency.shape)}.')
    height, width = saliency.shape[-2:]
    table, unit = _summed_area_table(saliency[:, 0])
    if not isinstance(size, Tensor):
        h, w = size
        if not (1 <= h <= height and 1 <= w <= width):
            raise ValueError(f'A region of {h} x {w} px does not fit into an image of {height} x {width} px.')
        sums = table[:, h:, w:] - table[:, :-h, w:] - table[:, h:, :-w] + table[:, :-h, :-w]
        return sums.to(unit.dtype) * unit

    h, w = size.to(saliency.device).unbind(1)
    rows = torch.arange(height, device=saliency.device) + h[:, None]
    cols = torch.arange(width, device=saliency.device) + w[:, None]
    # Bands of h rows first, then windows of w columns in them; indices beyond the border are clamped, then masked.
    ends = rows.clamp(max=height)[:, :, None].expand(-1, -1, width + 1)
    bands = table.gather(1, ends) - table[:, :height]
    ends = cols.clamp(max=width)[:, None, :].expand(-1, height, -1)
    sums = bands.gather(2, ends) - bands[:, :, :width]
    valid = (rows <= height)[:, :, None] & (cols <= width)[:, None, :]
    return (sums.to(unit.dtype) * unit).masked_fill(~valid, math.nan)


def _summed_area_table(saliency: Tensor) -> tuple[Tensor, Tensor]:
    """Exact integral image (B, H + 1, W + 1) with a zero border, and the unit (B, 1, 1) it counts in."""
    batch, height, width = saliency.shape
    # MPS has no float64; its integers are as exact, and slower elsewhere.
    dtype = torch.int64 if saliency.device.type == 'mps' else torch.float64
    work = torch.float32 if dtype == torch.int64 else torch.float64
    saliency = saliency.detach().to(work)
    peak = saliency.abs().amax((1, 2), keepdim=True)
    finite = peak.isfinite()
    # Sums of height * width integers below 2^bits stay below 2^53, where float64 counts exactly. All factors are
    # powers of two, so that scaling itself rounds nothing.
    bits = 52 - math.ceil(math.log2(height * width))
    # A map so small that no power of two brings it up to 2^bits is counted in coarser units.
    largest = math.frexp(torch.finfo(work).max)[1] - 1
    exponent = torch.frexp(torch.where(finite, peak, 0.0)).exponent.clamp(min=bits - largest)
    to_levels, unit = torch.exp2((bits - exponent).to(work)), torch.exp2((exponent - bits).to(work))
    levels = torch.where(finite, saliency * to_levels, 0.0).round().to(dtype)
    table = torch.zeros(batch, height + 1, width + 1, dtype=dtype, device=saliency.device)
    torch.cumsum(levels.cumsum(1), 2, out=table[:, 1:, 1:])
    return table, unit


def sample_regions(
    scores: Tensor,
    size: Size,
    tau: float | None,
    side: str = 'low',
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws one region per sample, uniformly among those on one side of a quantile of their scores.

    The quantile is score number floor(tau (n - 1)) of a sample's n valid windows, counted from 0 in ascending order.
    Where no window lies strictly beyond it, those equal to it are admitted; a sample with a score that is not finite
    draws among all its windows. (KeepAugment, section 3, Algorithm 1, without its rejection loop.)

    Args:
        scores: Scores by top-left corner, from `region_scores` with the same `size`.
        size: Window (h, w) in pixels, or an int tensor (B, 2).
        tau: Quantile in [0, 1]; None admits every window.
        side: 'low' admits scores below the quantile, 'high' those above.
        generator: Source of randomness; torch's default one if None.

    Returns:
        int64 boxes (B, 4): x0, y0, x1, y1 in pixels, half-open.

    Raises:
        ValueError: `tau` is outside [0, 1] or `side` is unknown.
    """
    if tau is not None and not 0.0 <= tau <= 1.0:
        raise ValueError(f'tau is a quantile in [0, 1], got {tau = }.')
    if side not in ('low', 'high'):
        raise ValueError(f"side is 'low' or 'high', got {side = }.")
    batch, rows, cols = scores.shape
    device = scores.device
    scores = scores.flatten(1)
    valid = None
    if isinstance(size, Tensor):
        h, w = size.to(device).long().unbind(1)
        fits_y = torch.arange(rows, device=device) <= rows - h[:, None]
        fits_x = torch.arange(cols, device=device) <= cols - w[:, None]
        valid = (fits_y[:, :, None] & fits_x[:, None, :]).flatten(1)
    else:
        h, w = (torch.full((batch,), edge, device=device) for edge in size)
    if tau is not None:
        admitted = _beyond_quantile(scores, valid, tau, side)
    else:
        admitted = valid if valid is not None else torch.ones_like(scores, dtype=torch.bool)
    place = _draw_place(admitted, generator)
    y0, x0 = place // cols, place % cols
    return torch.stack([x0, y0, x0 + w, y0 + h], dim=1)


def _beyond_quantile(scores: Tensor, valid: Tensor | None, tau: float, side: str) -> Tensor:
    """Places (B, N) strictly beyond the quantile; those equal to it where there are none."""
    if valid is not None:
        scores = torch.where(valid, scores, 0.0)
    scores = torch.where(scores.sum(1, keepdim=True).isfinite(), scores, 0.0)
    rank = int(tau * (scores.shape[1] - 1))
    filled = scores
    if valid is not None:
        # One selection serves samples of different n: enough of a sample's invalid places are put below all valid
        # ones that its order statistic floor(tau (n - 1)) becomes number floor(tau (N - 1)) of all N places.
        # In the type of the scores: float32 would miss whole numbers tau (n - 1) that Python's float meets.
        shift = rank - (tau * (valid.sum(1, keepdim=True) - 1).to(scores.dtype)).long()
        below = (~valid).cumsum(1) <= shift
        filled = torch.where(valid, scores, torch.where(below, -math.inf, math.inf))
    quantile = filled.kthvalue(rank + 1, dim=1, keepdim=True).values
    beyond = scores < quantile if side == 'low' else scores > quantile
    equal = scores == quantile
    if valid is not None:
        beyond, equal = beyond & valid, equal & valid
    return torch.where(beyond.any(1, keepdim=True), beyond, equal)


def _draw_place(admitted: Tensor, generator: torch.Generator | None) -> Tensor:
    """Index (B,) of one admitted place (B, N) per sample, each with the same probability; the last where none is."""
    running = admitted.cumsum(1)
    u = draw.uniform(len(admitted), 1, device=admitted.device, generator=generator)
    # The place sought is where the running count first exceeds a number drawn below the count.
    wanted = (u * running[:, -1:]).long()
    return torch.searchsorted(running, wanted, right=True).squeeze(1).clamp(max=admitted.shape[1] - 1)


def box_sizes(boxes: Tensor) -> Tensor:
    """Height and width (B, 2) in pixels of boxes (B, 4) XYXY."""
    return (boxes[:, 2:] - boxes[:, :2]).flip(1)


def boxes_to_mask(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Marks the pixels inside boxes.

    Args:
        boxes: int boxes (B, 4): x0, y0, x1, y1 in pixels, half-open; parts beyond the image are cut off.
        size: Image (H, W).

    Returns:
        bool (B, 1, H, W), True inside.
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    y = torch.arange(size[0], device=boxes.device)
    x = torch.arange(size[1], device=boxes.device)
    inside_y = (y >= y0) & (y < y1)
    inside_x = (x >= x0) & (x < x1)
    return (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
