"""How far a value would move had other records been drawn: intervals by the bootstrap, and tests of a difference.

The bootstrap is Poisson's (Chamandy et al., 2012): in each drawn set a record comes as often as a Poisson variable of
mean 1 says, so that sets are drawn while records go by. Draws depend on the seed and on the order of the records alone:
everything that is measured on the same records is measured on the same drawn sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import numpy as np
from numpy.typing import NDArray

from minicpmv.evaluation.metrics.base import Metric

__all__ = ["BLOCK", "NUM_DRAWS", "draw_weights", "interval", "mcnemar", "permutation_test", "values", "wilson"]

BLOCK = 256
"""Records whose draws are made together."""
NUM_DRAWS = 1000
_NUM_PERMUTATIONS = 10_000
_QUANTILE = 1.959963984540054
"""Of the normal distribution: 95 % lie between it and its negative."""
_ROUNDING = 1e-12

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
    """Say how likely so uneven a split is if every record that changed was as likely to go either way; exact.

    >>> mcnemar(9, 1)
    0.021484375
    """
    total = num_better + num_worse
    tail = sum(comb(total, count) for count in range(min(num_better, num_worse) + 1))
    return min(1.0, 2 * tail / 2**total)


def permutation_test(metric: Metric, first: Vectors, second: Vectors, *, seed: int) -> float:
    """Say how likely so large a difference is if each record's two answers were as likely to be swapped.

    Args:
        metric: What is measured.
        first: Statistics of each record, (records, numbers).
        second: The same of the other side.
        seed: Of the swaps, of which 10,000 are tried.
    """
    together = first.sum(axis=0) + second.sum(axis=0)
    apart = np.zeros((_NUM_PERMUTATIONS, first.shape[1]))
    for signs, rows in _signs(first - second, seed):
        apart += signs.T @ rows
    ours, theirs = (together + apart) / 2, (together - apart) / 2
    found = abs(metric.value(first.sum(axis=0).tolist()) - metric.value(second.sum(axis=0).tolist()))
    ones = np.ones(_NUM_PERMUTATIONS)
    swapped = np.abs(values(metric, ours, ones) - values(metric, theirs, ones))
    return float((1 + (swapped >= found - _ROUNDING).sum()) / (1 + _NUM_PERMUTATIONS))


def _signs(differences: Vectors, seed: int) -> Iterator[tuple[Vectors, Vectors]]:
    changed = differences[differences.any(axis=1)]  # swapping what is equal changes nothing
    for block, start in enumerate(range(0, len(changed), BLOCK)):
        rows = changed[start : start + BLOCK]
        # The last number keeps these apart from the draws of the bootstrap.
        drawn = np.random.default_rng([seed, block, 1]).integers(0, 2, (len(rows), _NUM_PERMUTATIONS), dtype=np.int8)
        yield np.where(drawn, 1.0, -1.0), rows
