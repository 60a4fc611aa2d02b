"""Numbers of finished runs: what a paper would report of each, and how arms differ."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

Curve = Sequence[tuple[int, float]]  # epochs and their values


def of_curve(curve: Curve, decreasing: bool = False) -> dict[str, float]:
    """What may be reported of a run: its last value, its best, and the median of its last ten epochs."""
    values = [value for _, value in curve]
    return {
        'last': values[-1],
        'best': (min if decreasing else max)(values),
        'median10': statistics.median(values[-10:]),
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
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else float('nan'), len(values))


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
        return Difference(mean, float('nan'), float('nan'), 1)
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return Difference(mean, mean - half, mean + half, len(pairs))
