"""Computes intervals for how far a value would vary with other records, and tests whether a difference may be chance.

A test and the interval shown with it are one method, so that p is below 0.05 exactly if the interval
excludes 0.

The bootstrap is a Poisson one (Chamandy et al., 2012): in each set a record occurs as often as a Poisson variable of
mean 1 states, so that sets are drawn in one pass. Draws depend only on the seed and on the order of the records:
all metrics on the same records are measured on the same sets.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, erfc, inf, sqrt

import numpy as np
from numpy.typing import NDArray

from minicpmv.evaluation.metrics.base import Metric

__all__ = [
    "BLOCK",
    "NUM_DRAWS",
    "draw_weights",
    "interval",
    "mcnemar",
    "paired_interval",
    "tail_test",
    "values",
    "wilson",
]

BLOCK = 256
"""Number of records whose draws are made together."""
NUM_DRAWS = 1000
_QUANTILE = 1.959963984540054
"""Quantile of the normal distribution: 95 % lie between it and its negative."""
_HALVINGS = 60
"""Halvings of a bracket no wider than 2 until the rest is below float rounding."""

Vectors = NDArray[np.float64]


def draw_weights(block: int, *, seed: int, num_draws: int = NUM_DRAWS) -> Vectors:
    """Draw how often each record of a block is in each bootstrap set, (BLOCK, num_draws).

    Args:
        block: Number of the block, from 0.
        seed: Seed of all blocks.
        num_draws: Number of sets.
    """
    return np.random.default_rng([seed, block]).poisson(1.0, (BLOCK, num_draws)).astype(np.float64)


def values(metric: Metric, sums: Vectors, counts: Vectors) -> Vectors:
    """Return the value of each set, (sets,); NaN where a set has no record.

    Args:
        metric: The metric to compute.
        sums: Summed statistics of each set, (sets, numbers).
        counts: Records in each set.
    """
    scored = (metric.value(row.tolist()) if count else np.nan for row, count in zip(sums, counts, strict=True))
    return np.fromiter(scored, np.float64, len(sums))


def interval(drawn: Vectors) -> tuple[float, float]:
    """Return the middle 95 % of values; sets without a record do not count."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def wilson(num_right: float, num_records: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, 1927), which has a width at 0 and n of n, too.

    >>> [round(bound, 4) for bound in wilson(0, 14)]
    [0.0, 0.2153]
    """
    share, spread = num_right / num_records, _QUANTILE**2 / num_records
    middle = share + spread / 2
    reach = (share * (1 - share) * spread + spread**2 / 4) ** 0.5
    low, high = (middle - reach) / (1 + spread), (middle + reach) / (1 + spread)
    # Exact at the ends, where rounding would leave 1e-17.
    return (0.0 if num_right == 0 else low), (1.0 if num_right == num_records else high)


def mcnemar(num_better: int, num_worse: int) -> float:
    """Return McNemar's p-value, by the normal approximation without continuity correction.

    It is recommended over the exact conditional test, which is too conservative (Fagerland, Lydersen and Laake, 2013).

    >>> round(mcnemar(9, 1), 4)
    0.0114
    """
    changed = num_better + num_worse
    return erfc(abs(num_better - num_worse) / sqrt(2 * changed)) if changed else 1.0


def paired_interval(num_better: int, num_worse: int, num_records: int) -> tuple[float, float]:
    """Return the 95 % score interval of the difference of two paired shares (Tango, 1998), better minus worse.

    It contains the differences that the score test does not reject; the test of 0 is McNemar's. Even without a changed
    record it has a width, as Wilson's interval has at 0.

    >>> [round(bound, 4) for bound in paired_interval(9, 1, 20)]
    [0.1053, 0.63]
    """
    found = (num_better - num_worse) / num_records

    def is_rejected(difference: float) -> bool:
        return _score(num_better, num_worse, num_records, difference) > _QUANTILE

    return _bisect(is_rejected, found, -1.0), _bisect(is_rejected, found, 1.0)


def _score(num_better: int, num_worse: int, num_records: int, difference: float) -> float:
    """Return the score of a difference in standard errors, with the variance's maximum likelihood estimate under it."""
    off = num_better - num_worse - num_records * difference
    linear = -num_better - num_worse + (2 * num_records - num_better + num_worse) * difference
    constant = -num_worse * difference * (1 - difference)
    worse = (sqrt(max(linear**2 - 8 * num_records * constant, 0.0)) - linear) / (4 * num_records)
    variance = num_records * (2 * worse + difference * (1 - difference))
    return abs(off) / sqrt(variance) if variance > 0 else (inf if off else 0.0)


def _bisect(is_rejected: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the last difference, going outwards, that is not rejected."""
    if not is_rejected(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_rejected(middle) else (middle, outside)
    return inside


def tail_test(drawn: Vectors) -> tuple[float, tuple[float, float]]:
    """Return the p-value of a difference by the paired bootstrap (Koehn, 2004), two-sided, and its 95 % interval.

    Args:
        drawn: The difference on each bootstrap set; 0 on a set without a record.
    """
    ordered = np.sort(drawn)
    rarer = min(int((ordered <= 0).sum()), int((ordered >= 0).sum()))
    cut = ceil(0.025 * (len(ordered) + 1)) - 2  # as many draws as may be beyond 0 where p is below 0.05
    return min(1.0, 2 * (1 + rarer) / (1 + len(ordered))), (float(ordered[cut]), float(ordered[-1 - cut]))
