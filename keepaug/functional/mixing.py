"""Two images and their labels into one: who mixes with whom, how much, and what the label becomes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from keepaug.functional import draw

# Standard deviations from the centre of an image to its border, for centres drawn around it.
CENTRAL_REACH = 2.0


def draw_partners(
    batch: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """A random permutation in which nobody is its own partner.

    It is one cycle through all samples in random order, so each sample gives and takes once. A batch of one mixes
    with itself.

    Args:
        batch: Number of samples B.
        generator: Source of randomness; torch's default one if None.
        device: Device of the result.

    Returns:
        int64 (B,): the partner of each sample.
    """
    order = draw.order(batch, device, generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def draw_pairs(
    batch: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Random partners of which each is the other's; in an odd batch one sample takes without giving.

    Args:
        batch: Number of samples B.
        generator: Source of randomness; torch's default one if None.
        device: Device of the result.

    Returns:
        int64 (B,): the partner of each sample.
    """
    order = draw.order(batch, device, generator)
    neighbour = torch.arange(batch, device=order.device) ^ 1
    neighbour = torch.where(neighbour < batch, neighbour, 0)
    return torch.empty_like(order).scatter_(0, order, order[neighbour])


def draw_lam(
    count: int,
    alpha: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mixing weights from Beta(alpha, alpha) (mixup, section 2; CutMix, section 3.1).

    Args:
        count: Number of weights N.
        alpha: Both parameters, above 0; 1 gives the uniform distribution.
        generator: Source of randomness; torch's default one if None.
        device: Device of the result.

    Returns:
        float64 (N,) in [0, 1].
    """
    return draw.beta(count, alpha, device, generator)


def cutmix_sizes(lam: Tensor, size: Sequence[int]) -> Tensor:
    """Edges of the region that leaves a share lam of the image (CutMix, Eq. 2), rounded down to whole pixels.

    Args:
        lam: (B,) in [0, 1].
        size: Image (H, W).

    Returns:
        int64 (B, 2): height and width.
    """
    edge = (1 - lam).sqrt()
    return torch.stack([(edge * size[0]).long(), (edge * size[1]).long()], dim=1)


def minmax_sizes(
    count: int,
    minmax: tuple[float, float],
    size: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Edges drawn uniformly between two shares of the image's, both ends included.

    Args:
        count: Number of regions N.
        minmax: Smallest and largest edge relative to the image, in [0, 1].
        size: Image (H, W).
        generator: Source of randomness; torch's default one if None.
        device: Device of the result.

    Returns:
        int64 (N, 2): height and width.
    """
    low, high = minmax
    edges = [
        draw.integers(int(edge * low), int(edge * high), count, device=device, generator=generator) for edge in size
    ]
    return torch.stack(edges, dim=1)


def overlapping_boxes(sizes: Tensor, size: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Boxes whose centres are uniform over the image; what overflows the border is cut off (CutMix, section 3.1).

    Args:
        sizes: int64 (B, 2): height and width before the border cuts.
        size: Image (H, W).
        generator: Source of randomness; torch's default one if None.

    Returns:
        int64 boxes (B, 4): x0, y0, x1, y1 in pixels, half-open, within the image.
    """
    return boxes_around(draw.uniform(2, len(sizes), device=sizes.device, generator=generator), sizes, size)


def central_boxes(sizes: Tensor, size: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Boxes whose centres are normal around the image's; what overflows the border is cut off (CutMix, section 4.1.3).

    The paper does not give the standard deviation. Here it is a quarter of the edge, and the distribution ends at the
    image's border, two standard deviations out.

    Args:
        sizes: int64 (B, 2): height and width before the border cuts.
        size: Image (H, W).
        generator: Source of randomness; torch's default one if None.

    Returns:
        int64 boxes (B, 4): x0, y0, x1, y1 in pixels, half-open, within the image.
    """
    u = draw.uniform(2, len(sizes), device=sizes.device, generator=generator)
    tail = math.erfc(CENTRAL_REACH / math.sqrt(2)) / 2
    deviations = torch.special.ndtri(tail + (1 - 2 * tail) * u)
    return boxes_around((0.5 + deviations / (2 * CENTRAL_REACH)).clamp(0, 1), sizes, size)


def boxes_around(centres: Tensor, sizes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes around points; what overflows the border is cut off.

    Args:
        centres: (2, B): y and x as shares of the edges, in [0, 1].
        sizes: int64 (B, 2): height and width before the border cuts.
        size: Image (H, W).

    Returns:
        int64 boxes (B, 4): x0, y0, x1, y1 in pixels, half-open, within the image.
    """
    starts, stops = [], []
    for edge, place, limit in zip(sizes.unbind(1), centres, size):
        centre = (place * limit).long().clamp(max=limit - 1)
        starts.append((centre - edge // 2).clamp(min=0))
        stops.append((centre + (edge + 1) // 2).clamp(max=limit))
    (y0, x0), (y1, x1) = starts, stops
    return torch.stack([x0, y0, x1, y1], dim=1)


def inside_boxes(sizes: Tensor, size: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Boxes whose places are uniform among those inside the image.

    Args:
        sizes: int64 (B, 2): height and width, at most the image's.
        size: Image (H, W).
        generator: Source of randomness; torch's default one if None.

    Returns:
        int64 boxes (B, 4): x0, y0, x1, y1 in pixels, half-open.
    """
    return boxes_at(draw.uniform(len(sizes), 2, device=sizes.device, generator=generator), sizes, size)


def boxes_at(places: Tensor, sizes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes inside the image, placed between the first possible place and the last.

    Args:
        places: (B, 2) in [0, 1), down and across: shares of the way.
        sizes: int64 (B, 2): height and width, at most the image's.
        size: Image (H, W).

    Returns:
        int64 boxes (B, 4): x0, y0, x1, y1 in pixels, half-open.
    """
    y0, x0 = (
        (place * (limit - edge + 1)).long() for edge, place, limit in zip(sizes.unbind(1), places.unbind(1), size)
    )
    return torch.stack([x0, y0, x0 + sizes[:, 1], y0 + sizes[:, 0]], dim=1)


def share_left(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Exact share of an image outside a box.

    Args:
        boxes: int64 (B, 4) XYXY within the image.
        size: Image (H, W).

    Returns:
        float64 (B,).
    """
    x0, y0, x1, y1 = boxes.unbind(1)
    return 1 - ((x1 - x0) * (y1 - y0)).double() / (size[0] * size[1])


def blend(x: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """weight x the own values + (1 - weight) x the partner's.

    Args:
        x: (B, ...).
        partner: int64 (B,).
        weight: Float32, of a shape that broadcasts with x. Half precision would round it, and the pixels would no
            longer match the label, which has the exact weight.

    Returns:
        A tensor such as x.
    """
    return (x * weight + x[partner] * (1 - weight)).to(x.dtype)


def mix_targets(target: Tensor, other: Tensor, lam: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Labels of mixed images: lam x target + (1 - lam) x other.

    Args:
        target: Class indices (B,) or soft targets (B, K).
        other: The partners' targets, of the same kind.
        lam: (B,) weight of `target`.
        num_classes: Number of classes K.
        smoothing: Label smoothing of class indices, timm's: `smoothing / K` for every class, and `1 - smoothing` more
            for the right one. Soft targets are taken as they are.

    Returns:
        float32 (B, K).

    Raises:
        ValueError: Soft targets are not of K classes.
    """
    first, second = (soft_labels(labels, num_classes, smoothing) for labels in (target, other))
    lam = lam.to(first.dtype)[:, None]
    return first * lam + second * (1 - lam)


def soft_labels(target: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Class indices (B,) as smoothed rows float32 (B, K); soft targets as they are.

    Raises:
        ValueError: Soft targets are not of K classes.
    """
    if target.ndim == 2:
        if target.shape[1] != num_classes:
            raise ValueError(f'Soft targets must be (B, {num_classes}), got shape {tuple(target.shape)}.')
        return target.float()
    off = smoothing / num_classes
    rows = torch.full((len(target), num_classes), off, device=target.device)
    return rows.scatter_(1, target[:, None], 1.0 - smoothing + off)
