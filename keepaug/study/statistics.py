"""Numbers of finished runs: what a paper would report of each, and how arms differ."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Curve = Sequence[tuple[int, float]]  # epochs and their values


def without_infinity(curve: Curve) -> Curve:
    """With nan for every value that is not finite: one number for what has diverged, which sums can hold."""
    return [(epoch, value if math.isfinite(value) else math.nan) for epoch, value in curve]


def of_curve(curve: Curve, decreasing: bool = False) -> dict[str, float]:
    """What may be reported of a run: its last value, its best, and the median of its last ten epochs.

    Args:
        curve: Values by epoch; nan is worse than any number.
        decreasing: Whether lower is better.
    """

    def order(value: float) -> float:
        if math.isnan(value):
            return -math.inf
        return -value if decreasing else value

    values = [value for _, value in curve]
    ranked = sorted(values[-10:], key=order)
    return {
        'last': values[-1],
        'best': max(values, key=order),
        'median10': statistics.fmean(ranked[(len(ranked) - 1) // 2 : len(ranked) // 2 + 1]),
    }


def at_time(curve: Curve, clock: Mapping[int, float], seconds: float) -> float | None:
    """The last value that a run had after so many seconds; None where it had none yet.

    Args:
        curve: Values by epoch.
        clock: Seconds after which each epoch was done.
        seconds: The budget.
    """
    done = [value for epoch, value in curve if clock.get(epoch, float('inf')) <= seconds]
    return done[-1] if done else None


@dataclass(frozen=True)
class Spread:
    """A mean over seeds.

    Attributes:
        mean: Mean.
        deviation: Standard deviation, nan of one run.
        n: Runs.
    """

    mean: float
    deviation: float
    n: int

    def __str__(self) -> str:
        spread = f' ± {self.deviation:.2f}' if self.n > 1 else ''
        return f'{self.mean:.2f}{spread} (n = {self.n})'


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value."""
    return Spread(statistics.fmean(values), _deviation(values), len(values))


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation; nan of one value, and where one is nan."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Difference:
    """A mean of differences paired by seed, with its 95% interval (Student's t).

    Attributes:
        mean: Mean difference.
        low: Lower end of the interval; nan of one pair.
        high: Upper end.
        n: Pairs.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = f' ({self.low:+.2f} to {self.high:+.2f})' if self.n > 1 else ''
        return f'{self.mean:+.2f}{interval}, n = {self.n}'

    @property
    def smallest(self) -> float:
        """The smallest difference that so many pairs of this spread would show: half the interval's width."""
        return (self.high - self.low) / 2


def difference_of(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """First minus second, by the seeds that both have; None where there is none.

    Args:
        first: Values by seed.
        second: Values by seed.
    """
    pairs = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not pairs:
        return None
    mean = statistics.fmean(pairs)
    if len(pairs) == 1:
        return Difference(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * _deviation(pairs) / len(pairs) ** 0.5
    return Difference(mean, mean - half, mean + half, len(pairs))
