"""Slow and obvious answers to what `keepaug.functional` computes, and the statistics of many draws."""

import numpy as np
import torch
from scipy.stats import binom, chisquare
from torch import Tensor

# Draws are seeded, so a test below this is a fault and not bad luck, unless torch's generators change.
SIGNIFICANT = 1e-4


def window_sums(saliency: Tensor, size: tuple[int, int]) -> Tensor:
    """float64 sums of one map (H, W) over its windows, by top-left corner, one window after the other."""
    h, w = size
    height, width = saliency.shape
    saliency = saliency.double()
    return torch.tensor(
        [[saliency[y : y + h, x : x + w].sum() for x in range(width - w + 1)] for y in range(height - h + 1)],
        dtype=torch.float64,
    )


def admitted_places(scores: Tensor, tau: float | None, side: str) -> np.ndarray:
    """Which windows of one image may be drawn, in the shape of its scores; nan where there is no window."""
    scores = scores.numpy()
    windows = ~np.isnan(scores)
    if tau is None:
        return windows
    quantile = np.quantile(scores[windows], tau, method='lower')
    beyond = scores < quantile if side == 'low' else scores > quantile
    return beyond if beyond.any() else scores == quantile


def uniform_p(draws: Tensor, places: int) -> float:
    """Chance of counts as uneven as these if `draws` are uniform on 0 .. places - 1."""
    counts = np.bincount(draws.numpy(), minlength=places)
    assert len(counts) == places, 'a draw is not among the places'
    return chisquare(counts).pvalue


def independent_p(draws: Tensor, places: int) -> float:
    """Chance of such counts of neighbours in the batch if samples are drawn uniformly, each for itself."""
    return uniform_p(draws[0::2] * places + draws[1::2], places**2)


def rate_p(hits: int, n: int, rate: float) -> float:
    """Chance of a count at least this far from `rate` x `n`, on the side it is on."""
    return min(binom.cdf(hits, n, rate), binom.sf(hits - 1, n, rate))
