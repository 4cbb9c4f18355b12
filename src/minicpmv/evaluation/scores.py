"""Measures records in one pass: the scores of each, and at the end the value of each metric with its interval.

Only a few sums are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import MeanMetric, Metric, Sample, Statistics
from minicpmv.evaluation.metrics.registry import BUILT_IN, class_of
from minicpmv.evaluation.resampling import BLOCK, NUM_DRAWS, draw_weights, interval, values, wilson
from minicpmv.wording import counted

__all__ = ["Result", "Scorer", "Scores", "measure", "shown", "shown_by_name"]

Scores = dict[str, float | None]
"""Scores of one record by metric name; None where a metric is undefined for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Holds a metric's value for a set."""

    value: float
    low: float
    high: float
    """Bounds of the 95 % bootstrap interval, together with ``low``; for a share of records
    that are right, bounds of Wilson's score interval."""
    num_records: int
    """Number of records that could be measured."""


def measure(metric: Metric, sample: Sample) -> Statistics | None:
    """Reduce a record to a metric's numbers; None where the metric is undefined, as without a reference."""
    if metric.needs_references and not sample.references:
        return None
    return metric.measure(sample)


def shown(metric: Metric | type[Metric], value: float) -> str:
    """Format a value for readers."""
    return f"{value:.1%}" if metric.is_share else f"{value:.4g}"


def shown_by_name(name: str, value: float) -> str:
    """Format the value of a metric, or of a loss, by its name in a log; one that another package offers in digits."""
    return shown(class_of(name), value) if name in BUILT_IN else f"{value:.3g}"


class Scorer:
    """Accumulates records.

    Args:
        metrics: Metrics to compute.
        seed: Seed of the bootstrap.
    """

    def __init__(self, metrics: Sequence[Metric], *, seed: int = 0) -> None:
        self.metrics = list(metrics)
        self.num_records = 0
        self._seed = seed
        self._sums: dict[str, _Sums] = {metric.name: _Sums(metric) for metric in metrics}

    def add(self, sample: Sample) -> Scores:
        """Add a record and return its scores."""
        scores: Scores = {}
        for metric in self.metrics:
            statistics = measure(metric, sample)
            self._sums[metric.name].add(statistics, self.num_records % BLOCK)
            scores[metric.name] = None if statistics is None else metric.score(statistics)
        self.num_records += 1
        if not self.num_records % BLOCK:
            self._draw()
        return scores

    def results(self) -> Mapping[str, Result]:
        """Return the values, in the order of the metrics.

        Raises:
            UsageError: A metric is undefined for every record.
        """
        self._draw()
        for metric in self.metrics:
            if not self._sums[metric.name].num_records:
                raise UsageError(
                    f"{metric.name}: found none of {counted(self.num_records, 'record')} that it can measure, expected "
                    f"{metric.expects}\n  fix: add what is missing to the data, or leave the metric out"
                )
        return {name: sums.result() for name, sums in self._sums.items()}

    def _draw(self) -> None:
        """Add the records of the current block to the sums."""
        block = max(self.num_records - 1, 0) // BLOCK
        if any(sums.is_waiting for sums in self._sums.values()):
            weights = draw_weights(block, seed=self._seed)
            for sums in self._sums.values():
                sums.draw(weights)


class _Sums:
    """Holds one metric's sums, over the records and over each bootstrap set."""

    def __init__(self, metric: Metric) -> None:
        self.num_records = 0
        self._metric = metric
        self._block: list[tuple[int, Statistics]] = []
        self._total: np.ndarray = np.zeros(0)
        self._drawn: np.ndarray = np.zeros((NUM_DRAWS, 0))
        self._counts = np.zeros(NUM_DRAWS)
        self._is_proportion = isinstance(metric, MeanMetric) and metric.is_share
        """Whether every record so far scored 0 or 1."""

    @property
    def is_waiting(self) -> bool:
        return bool(self._block)

    def add(self, statistics: Statistics | None, place: int) -> None:
        if statistics is not None:
            self._block.append((place, statistics))

    def draw(self, weights: np.ndarray) -> None:
        if not self._block:
            return
        places = [place for place, _ in self._block]
        rows = np.array([statistics for _, statistics in self._block], dtype=np.float64)
        if not self.num_records:
            self._total, self._drawn = np.zeros(rows.shape[1]), np.zeros((NUM_DRAWS, rows.shape[1]))
        self._is_proportion = self._is_proportion and bool(np.isin(rows[:, 0], (0.0, 1.0)).all())
        self._total += rows.sum(axis=0)
        self._drawn += weights[places].T @ rows
        self._counts += weights[places].sum(axis=0)
        self.num_records += len(rows)
        self._block = []

    def result(self) -> Result:
        if self._is_proportion:
            low, high = wilson(float(self._total[0]), self.num_records)
        else:
            low, high = interval(values(self._metric, self._drawn, self._counts))
        return Result(value=self._metric.value(self._total.tolist()), low=low, high=high, num_records=self.num_records)
