"""Numbers of runs, each against what can be counted by hand or what scipy says."""

import math

import numpy as np
import pytest
from scipy import stats

from keepaug.study.statistics import at_time, difference_of, of_curve, spread_of, without_infinity


def test_of_curve_by_hand():
    curve = [(epoch, float(value)) for epoch, value in enumerate([9, 1, 2, 3, 4, 5, 6, 7, 8, 10, 20, 11])]
    assert of_curve(curve) == {'last': 11.0, 'best': 20.0, 'median10': 6.5}
    assert of_curve(curve, decreasing=True)['best'] == 1.0
    assert of_curve([(3, 5.0)]) == {'last': 5.0, 'best': 5.0, 'median10': 5.0}


@pytest.mark.parametrize('decreasing', [False, True])
def test_what_has_diverged_is_worse_than_any_number(decreasing):
    """Wherever it stands, it is not the best; the median is one only where half of the epochs are."""
    sign = -1.0 if decreasing else 1.0
    for place in range(3):
        values = [sign, 2 * sign]
        values.insert(place, math.nan)
        found = of_curve(list(enumerate(values)), decreasing)
        assert found['best'] == 2 * sign and found['median10'] == sign
    halves = [of_curve(list(enumerate(values)), decreasing) for values in ([math.nan, sign], [sign, math.nan])]
    assert all(math.isnan(found['median10']) for found in halves)
    assert math.isnan(of_curve([(0, math.nan)], decreasing)['best'])
    assert without_infinity([(0, math.inf), (1, 3.0)])[1] == (1, 3.0)


def test_a_mean_with_nan_is_nan():
    found = [spread_of([math.nan, 1.0]).mean, spread_of([1.0, math.nan]).deviation]
    difference = difference_of({0: math.nan, 1: 2.0}, {0: 1.0, 1: 1.0})
    assert all(map(math.isnan, [*found, difference.mean, difference.low, difference.smallest]))


def test_at_time_by_hand():
    curve, clock = [(0, 10.0), (1, 20.0), (2, 30.0)], {0: 5.0, 1: 10.0, 2: 15.0}
    assert [at_time(curve, clock, seconds) for seconds in (4.9, 5.0, 12.0, 99.0)] == [None, 10.0, 20.0, 30.0]
    assert at_time(curve, {}, 99.0) is None


@pytest.mark.parametrize('n', [2, 3, 10])
def test_difference_is_that_of_paired_t(n):
    first, second = np.random.default_rng(n).normal(size=(2, n))
    found = difference_of(dict(enumerate(first)), dict(enumerate(second)))
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx(((first - second).mean(), low, high, n))
    assert found.smallest == pytest.approx((high - low) / 2)


def test_difference_pairs_by_seed():
    found = difference_of({0: 1.0, 1: 5.0, 7: 100.0}, {1: 3.0, 0: 0.0, 4: -100.0})
    assert (found.mean, found.n) == (1.5, 2)
    assert difference_of({0: 1.0}, {1: 1.0}) is None
    alone = difference_of({0: 3.0}, {0: 1.0})
    assert alone.mean == 2.0 and math.isnan(alone.low) and str(alone) == '+2.00, n = 1'


def test_interval_covers_the_truth_as_often_as_it_says():
    """10,000 studies of five seeds: 95% of the intervals hold the true difference of 1."""
    rng = np.random.default_rng(0)
    differences = 1.0 + rng.normal(size=(10_000, 5))
    zero = dict.fromkeys(range(5), 0.0)
    found = [difference_of(dict(enumerate(row)), zero) for row in differences]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 10_000))


def test_spread():
    assert str(spread_of([1.0, 3.0])) == '2.00 ± 1.41 (n = 2)' and str(spread_of([1.0])) == '1.00 (n = 1)'
