"""Intervals and tests over independent units (patients or cases): pure functions of numbers."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

RESAMPLES: Final = 10_000
MIN_PAIRS: Final = 6
"""With five pairs even the most extreme two-sided p is 0.0625: such a test cannot find anything."""

_BLOCK: Final = 1 << 20  # numbers that are drawn at a time

Centre = Literal["mean", "median"]


@dataclass(frozen=True)
class Interval:
    """A centre with its 95 % interval.

    Attributes:
        centre: Mean or median; NaN without values.
        low: Lower bound; NaN with fewer than two values, which say nothing about spread.
        high: Upper bound.
        n: Number of values.
    """

    centre: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedTest:
    """Two-sided Wilcoxon signed-rank test of paired values.

    Attributes:
        n: Number of pairs.
        mean_difference: Of the first minus the second; NaN without pairs.
        p: NaN where no test was made, see ``reason``.
        reason: Why there is no test; empty where there is one.
    """

    n: int
    mean_difference: float
    p: float
    reason: str = ""


def bootstrap_interval(
    values: Float[np.ndarray, " n"],
    *,
    centre: Centre = "mean",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean or median of independent values.

    Args:
        values: One per unit. NaN is left out; infinities are allowed with ``median`` only.
        centre: What is estimated.
        resamples: Number of resamples with replacement.
        seed: Of the resampling: the same values give the same interval.

    Returns:
        The centre and the 2.5 % and 97.5 % quantiles of the resampled centres (each one of them,
        without interpolation, so that infinities stay what they are).
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    function = np.mean if centre == "mean" else np.median
    if n == 1:
        return Interval(float(values[0]), math.nan, math.nan, 1)
    rng = np.random.default_rng(seed)
    centres = []
    left = resamples
    while left:  # in blocks, for 10,000 resamples of 10,000 cases are 800 MB
        rows = min(left, max(1, _BLOCK // n))
        centres.append(function(values[rng.integers(0, n, (rows, n))], axis=1))
        left -= rows
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(np.concatenate(centres), [0.025, 0.975], method="inverted_cdf")
        return Interval(float(function(values)), float(low), float(high), n)


def paired_test(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> PairedTest:
    """Compares two models on the same units, two-sided.

    Args:
        first: One finite value per unit.
        second: The other model's values of the same units in the same order.

    Returns:
        The test. Fewer than ``MIN_PAIRS`` pairs are not tested. Where no pair differs, p is 1.
    """
    from scipy.stats import wilcoxon

    differences = first - second
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    if n < MIN_PAIRS:
        return PairedTest(n, mean, math.nan, f"n = {n}: fewer than {MIN_PAIRS} pairs")
    if not differences.any():
        return PairedTest(n, mean, 1.0)
    with warnings.catch_warnings():
        # scipy says in newer and older words that ties make p approximate
        warnings.simplefilter("ignore", UserWarning)
        result = wilcoxon(first, second, alternative="two-sided")
    return PairedTest(n, mean, float(result.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects the p values of one family of tests for their number by Holm's step-down method.

    Args:
        p_values: In any order; NaN stands for a test that was not made and does not count.

    Returns:
        Corrected p values in the same order, at most 1; NaN stays NaN.
    """
    corrected = [math.nan] * len(p_values)
    made = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, index) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        corrected[index] = largest
    return corrected
