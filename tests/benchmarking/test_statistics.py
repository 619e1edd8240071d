import math

import numpy as np
import pytest
import scipy.stats

from medsam2_ft.benchmarking import statistics
from medsam2_ft.benchmarking.statistics import bootstrap_interval, holm, paired_test


def test_the_interval_equals_scipys() -> None:
    values = np.random.default_rng(1).beta(5, 2, 37)
    found = bootstrap_interval(values, seed=3)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert found.centre == pytest.approx(values.mean(), abs=1e-12)
    # the same draws; scipy interpolates between the two nearest of 10,000 means
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)
    assert found.low < found.centre < found.high
    assert found == bootstrap_interval(values, seed=3)
    assert found != bootstrap_interval(values, seed=4)
    assert found.n == 37


def test_blocks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).beta(5, 2, 37)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(statistics, "_BLOCK", 1000)
    assert bootstrap_interval(values) == whole


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = bootstrap_interval(rng.normal(1.0, 2.0, 60), resamples=1000)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_intervals_of_few_or_odd_values() -> None:
    nothing = bootstrap_interval(np.array([]))
    assert (nothing.n, math.isnan(nothing.centre)) == (0, True)
    one = bootstrap_interval(np.array([0.5, math.nan]))
    assert (one.n, one.centre) == (1, 0.5)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    infinite = bootstrap_interval(np.array([1.0, 2.0, 3.0, 4.0, math.inf]), centre="median")
    assert infinite.centre == 3.0
    assert infinite.low == 1.0
    assert infinite.high == math.inf
    never = bootstrap_interval(np.full(3, math.inf), centre="median")
    assert (never.low, never.centre, never.high) == (math.inf,) * 3


def test_the_test_is_scipys() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.uniform(size=12), rng.uniform(size=12)
    found = paired_test(first, second)
    assert found.p == scipy.stats.wilcoxon(first, second).pvalue
    assert found.mean_difference == pytest.approx((first - second).mean())
    # all of six differences have one sign: two of 2**6 outcomes are as extreme
    assert paired_test(first[:6] + 1, first[:6]).p == pytest.approx(2 / 64)
    assert paired_test(first, first).p == 1.0


def test_too_few_pairs_are_not_tested() -> None:
    found = paired_test(np.arange(5.0) + 1, np.zeros(5))
    assert math.isnan(found.p)
    assert "n = 5" in found.reason
    assert math.isnan(paired_test(np.array([]), np.array([])).mean_difference)


def test_holm_by_hand() -> None:
    # sorted 0.005 0.01 0.03 0.04, times 4 3 2 1, then never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    found = holm([0.02, math.nan, 0.03])  # what was not tested is not counted
    assert (found[0], found[2]) == pytest.approx((0.04, 0.04))
    assert math.isnan(found[1])
