"""Compares two models' answers to the same records, record by record.

Values are recomputed from the answers, so a file may come from ``minicpmv predict`` or ``minicpmv eval``, in any
order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicpmv.data.records.answers import Share
from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import MeanMetric, Metric, Sample
from minicpmv.evaluation.metrics.registry import find_metrics
from minicpmv.evaluation.resampling import (
    BLOCK,
    NUM_DRAWS,
    Vectors,
    draw_weights,
    mcnemar,
    paired_interval,
    tail_test,
    values,
)
from minicpmv.evaluation.score_files import Answered, ShareOfFile, read_answers
from minicpmv.evaluation.scores import measure
from minicpmv.wording import counted, name_few

__all__ = ["Change", "Comparison", "Difference", "compare", "shared_metrics"]

"""Most records that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Holds one metric's values for two files, and their difference."""

    first: float
    second: float
    difference: float
    """Second minus first."""
    low: float
    high: float
    """Bounds of the 95 % interval, together with ``low``. It excludes 0 exactly if ``p_value`` is below 0.05."""
    p_value: float
    """Probability of a difference at least this large if the two models were equally good."""
    test: str
    num_better: int
    """Records with a better score in the second file."""
    num_worse: int
    num_records: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Holds a record whose score changed in the second file."""

    key: str | int
    question: str
    references: tuple[str, ...]
    answers: tuple[str, str]
    scores: Mapping[str, tuple[float, float]]
    """Scores of the metrics that changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Holds the result of a comparison."""

    num_records: int
    share: Share
    """Share of the records' answers that are compared."""
    differences: Mapping[str, Difference]
    num_changed: int
    changes: Sequence[Change]
    """The first changed records."""


def compare(first: str, second: str, metrics: Sequence[Metric], *, seed: int = 0, max_changes: int = 10) -> Comparison:
    """Compare two files of answers.

    Args:
        first: Path of one file.
        second: Path of the other file.
        metrics: Metrics to compute.
        seed: Seed of the bootstrap.
        max_changes: Most changed records to return.

    Raises:
        UsageError: A file cannot be read, they are not of the same records, or a metric is defined for none of them.
    """
    for metric in metrics:
        if metric.sees_all_first:
            for answered in read_answers(first):
                metric.prepare(answered.sample)
    ours, theirs = _Side(first, metrics), _Side(second, metrics)
    _check_same(ours, theirs)
    order = np.array([theirs.positions[key] for key in ours.positions], dtype=np.int64)
    differences: dict[str, Difference] = {}
    changed = np.zeros(len(order), dtype=bool)
    for metric in metrics:
        sides = ours.statistics(metric), theirs.statistics(metric)[order]
        known = ~np.isnan(sides[0]).any(axis=1) & ~np.isnan(sides[1]).any(axis=1)
        if not known.any():
            raise UsageError(
                f"{metric.name}: found none of {counted(len(order), 'record')} that it can measure in both files, "
                f"expected {metric.expects}\n  fix: leave the metric out, or name other files"
            )
        scores = ours.scores(metric)[known], theirs.scores(metric)[order][known]
        changed[known] |= scores[0] != scores[1]
        differences[metric.name] = _difference(metric, sides[0], sides[1], known, scores, seed)
    keys = [key for key, is_changed in zip(ours.positions, changed, strict=True) if is_changed][:max_changes]
    return Comparison(
        num_records=len(order),
        share=max(ours.share(), theirs.share(), key=lambda share: share.of),  # one file may not state it
        differences=differences,
        num_changed=int(changed.sum()),
        changes=list(_describe(first, second, keys, metrics)),
    )


def shared_metrics(first: str, second: str) -> list[str]:
    """Name the metrics with scores in the first line of both files; ``exact_match`` if there are none.

    Metrics that may take a file are left out, since scores do not say which file it was.

    Raises:
        UsageError: A file cannot be read.
    """
    ours, theirs = (next(iter(read_answers(path))).fields.get("scores") for path in (first, second))
    both = [name for name in ours if name in theirs] if isinstance(ours, dict) and isinstance(theirs, dict) else []
    found = find_metrics(both) if both else []
    return [metric.name for metric in found if not metric.takes_file] or ["exact_match"]


class _Side:
    """Holds one file's records: their keys, and the statistics of each metric."""

    def __init__(self, path: str, metrics: Sequence[Metric]) -> None:
        self.path = path
        self.positions: dict[str | int, int] = {}
        self.digests = array("q")
        of_file = ShareOfFile()
        self.share = of_file.share
        self._statistics: dict[str, list[array[float] | None]] = {metric.name: [] for metric in metrics}
        self._scores = {metric.name: array("d") for metric in metrics}
        for answered in read_answers(path):
            of_file.add(answered.fields)
            self.positions[answered.key] = len(self.positions)
            self.digests.append(hash(answered.sample.references))
            for metric in metrics:
                self._add(metric, answered.sample)

    def _add(self, metric: Metric, sample: Sample) -> None:
        found = measure(metric, sample)
        self._statistics[metric.name].append(None if found is None else array("d", found))
        self._scores[metric.name].append(float("nan") if found is None else metric.score(found))

    def statistics(self, metric: Metric) -> Vectors:
        """Return the statistics, (records, numbers); NaN where the metric is undefined."""
        rows = self._statistics[metric.name]
        width = next((len(row) for row in rows if row is not None), 1)
        missing = [float("nan")] * width
        return np.array([missing if row is None else row for row in rows], dtype=np.float64).reshape(-1, width)

    def scores(self, metric: Metric) -> Vectors:
        return np.array(self._scores[metric.name])


def _check_same(ours: _Side, theirs: _Side) -> None:
    for side, other in ((ours, theirs), (theirs, ours)):
        missing = [key for key in side.positions if key not in other.positions]
        if missing:
            raise UsageError(
                f"{other.path}: found no line for {len(missing)} of {counted(len(side.positions), 'record')} of "
                f"{side.path} ({name_few(map(repr, missing), most=3)}), expected the same records\n  fix: let both "
                "models answer the same data"
            )
    for key, position in ours.positions.items():
        if ours.digests[position] != theirs.digests[theirs.positions[key]]:
            raise UsageError(
                f"{theirs.path}: found other references for record {key!r} than in {ours.path}, expected the same\n"
                "  fix: let both models answer the same data"
            )


def _difference(
    metric: Metric, first: Vectors, second: Vectors, known: Any, scores: tuple[Vectors, Vectors], seed: int
) -> Difference:
    ours, theirs = first[known], second[known]
    value, other = metric.value(ours.sum(axis=0).tolist()), metric.value(theirs.sum(axis=0).tolist())
    num_higher, num_lower = int((scores[1] > scores[0]).sum()), int((scores[1] < scores[0]).sum())
    is_binary = isinstance(metric, MeanMetric) and bool(np.isin(np.concatenate(scores), (0.0, 1.0)).all())
    if is_binary:
        p_value, between = mcnemar(num_higher, num_lower), paired_interval(num_higher, num_lower, len(ours))
    else:
        drawn = _draw(second, known, metric, seed) - _draw(first, known, metric, seed)
        p_value, between = tail_test(np.nan_to_num(drawn, nan=0.0))
    return Difference(
        first=value,
        second=other,
        difference=other - value,
        low=between[0],
        high=between[1],
        p_value=p_value,
        test="McNemar" if is_binary else "bootstrap",
        num_better=num_higher if metric.higher_is_better else num_lower,
        num_worse=num_lower if metric.higher_is_better else num_higher,
        num_records=len(ours),
    )


def _draw(statistics: Vectors, known: Any, metric: Metric, seed: int) -> Vectors:
    """Measure one file on bootstrap sets; both files get the same ones, since their order is now the same."""
    sums, counts = np.zeros((NUM_DRAWS, statistics.shape[1])), np.zeros(NUM_DRAWS)
    for block, start in enumerate(range(0, len(statistics), BLOCK)):
        mask = known[start : start + BLOCK]
        weights = draw_weights(block, seed=seed)[: len(mask)][mask]
        sums += weights.T @ statistics[start : start + BLOCK][mask]
        counts += weights.sum(axis=0)
    return values(metric, sums, counts)


def _describe(first: str, second: str, keys: Sequence[str | int], metrics: Sequence[Metric]) -> Iterator[Change]:
    """Read the lines of a few records again to describe their changes."""
    wanted = set(keys)
    ours, theirs = ({each.key: each for each in read_answers(path) if each.key in wanted} for path in (first, second))
    for key in keys:
        pair = ours[key], theirs[key]
        scores = {metric.name: (_score(metric, pair[0]), _score(metric, pair[1])) for metric in metrics}
        yield Change(
            key=key,
            question=pair[0].sample.question,
            references=pair[0].sample.references,
            answers=(pair[0].sample.answer, pair[1].sample.answer),
            scores={name: both for name, both in scores.items() if both[0] != both[1]},
        )


def _score(metric: Metric, answered: Answered) -> float:
    found = measure(metric, answered.sample)
    return float("nan") if found is None else metric.score(found)
