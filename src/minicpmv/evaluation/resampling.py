"""Says how far a value would move with other records, by intervals, and whether a difference may be chance, by tests.

A test and the interval that is shown with it are one method, so that p is below 0.05 exactly where the interval leaves
out 0.

The bootstrap is Poisson's (Chamandy et al., 2012): in each drawn set a record comes as often as a Poisson variable of
mean 1 says, so that sets are drawn while records go by. Draws depend on the seed and on the order of the records alone:
everything that is measured on the same records is measured on the same drawn sets.
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
"""Records whose draws are made together."""
NUM_DRAWS = 1000
_QUANTILE = 1.959963984540054
"""Of the normal distribution: 95 % lie between it and its negative."""
_HALVINGS = 60
"""Of a bracket no wider than 2: what is left is below the rounding of a float."""

Vectors = NDArray[np.float64]


def draw_weights(block: int, *, seed: int, num_draws: int = NUM_DRAWS) -> Vectors:
    """Say how often each record of a block is in each drawn set, (BLOCK, num_draws).

    Args:
        block: Its number, from 0.
        seed: Of all blocks.
        num_draws: How many sets.
    """
    return np.random.default_rng([seed, block]).poisson(1.0, (BLOCK, num_draws)).astype(np.float64)


def values(metric: Metric, sums: Vectors, counts: Vectors) -> Vectors:
    """Score several sets, (sets,); not a number where a set has no record.

    Args:
        metric: What is measured.
        sums: Added statistics of each set, (sets, numbers).
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
    """Return the 95 % score interval of a proportion (Wilson, 1927), which 0 and all of n have as well.

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
    """Return McNemar's p-value, by the normal distribution and without a correction.

    It is recommended over the exact conditional test, which finds too little (Fagerland, Lydersen and Laake, 2013).

    >>> round(mcnemar(9, 1), 4)
    0.0114
    """
    changed = num_better + num_worse
    return erfc(abs(num_better - num_worse) / sqrt(2 * changed)) if changed else 1.0


def paired_interval(num_better: int, num_worse: int, num_records: int) -> tuple[float, float]:
    """Return the 95 % score interval of the difference of two paired shares (Tango, 1998), better less worse.

    It holds the differences that the score test does not reject, and that of 0 is McNemar's. Without any changed record
    it has a width, as Wilson's interval has at 0.

    >>> [round(bound, 4) for bound in paired_interval(9, 1, 20)]
    [0.1053, 0.63]
    """
    found = (num_better - num_worse) / num_records

    def is_rejected(difference: float) -> bool:
        return _score(num_better, num_worse, num_records, difference) > _QUANTILE

    return _bisect(is_rejected, found, -1.0), _bisect(is_rejected, found, 1.0)


def _score(num_better: int, num_worse: int, num_records: int, difference: float) -> float:
    """Return by how many standard errors a difference is off; the variance is what is likeliest given it."""
    off = num_better - num_worse - num_records * difference
    linear = -num_better - num_worse + (2 * num_records - num_better + num_worse) * difference
    constant = -num_worse * difference * (1 - difference)
    worse = (sqrt(max(linear**2 - 8 * num_records * constant, 0.0)) - linear) / (4 * num_records)
    variance = num_records * (2 * worse + difference * (1 - difference))
    return abs(off) / sqrt(variance) if variance > 0 else (inf if off else 0.0)


def _bisect(is_rejected: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the last difference on the way outside that is not rejected."""
    if not is_rejected(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_rejected(middle) else (middle, outside)
    return inside


def tail_test(drawn: Vectors) -> tuple[float, tuple[float, float]]:
    """Return the p-value of a difference by the paired bootstrap (Koehn, 2004), two-sided, and its 95 % interval.

    Args:
        drawn: The difference on each drawn set; 0 on a set without a record, which shows none.
    """
    ordered = np.sort(drawn)
    rarer = min(int((ordered <= 0).sum()), int((ordered >= 0).sum()))
    cut = ceil(0.025 * (len(ordered) + 1)) - 2  # as many draws as may be beyond 0 where p is below 0.05
    return min(1.0, 2 * (1 + rarer) / (1 + len(ordered))), (float(ordered[cut]), float(ordered[-1 - cut]))
