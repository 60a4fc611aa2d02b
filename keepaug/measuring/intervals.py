"""95% intervals of what is measured on some images and meant of all."""

import math

import torch
from torch import Tensor

Z = 1.959964  # of the normal distribution
FEW = {1: 12.7062, 2: 4.3027, 3: 3.1824}  # Student's t of so few degrees of freedom that no series gives it


def half_width(values: Tensor) -> float:
    """Half the 95% interval (Student's t) of the mean of values (N,); nan of fewer than two."""
    if len(values) < 2:
        return math.nan
    return student_t(len(values) - 1) * values.double().std().item() / math.sqrt(len(values))


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to a hundredth.

    Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5; SciPy, which has it exactly, is an extra.
    """
    if freedom in FEW:
        return FEW[freedom]
    terms = (Z, (Z**3 + Z) / 4, (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96, (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384)
    return sum(term / freedom**power for power, term in enumerate(terms))


def percent_interval(percent: Tensor, count: float) -> tuple[list[float], list[float]]:
    """`wilson` of shares in percent (N,): lower and upper ends in percent."""
    low, high = wilson(percent / 100, count)
    return (100 * low).tolist(), (100 * high).tolist()


def wilson(shares: Tensor, count: Tensor | float) -> tuple[Tensor, Tensor]:
    """The 95% interval of shares of independent yes-or-no answers, which holds near 0 and 1 too (Wilson 1927).

    Args:
        shares: Shares in [0, 1], of any shape.
        count: Answers behind each.

    Returns:
        Lower and upper ends.
    """
    count = torch.as_tensor(count, dtype=torch.float64, device=shares.device).clamp(min=1.0)
    shares = shares.double()
    middle = (shares + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * (shares * (1 - shares) / count + Z**2 / (4 * count**2)).sqrt()
    return (middle - half).clamp(min=0.0), (middle + half).clamp(max=1.0)
