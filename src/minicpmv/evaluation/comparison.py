"""Two models' answers to the same records, compared record by record.

Values are computed anew from the answers, so a file may come from ``minicpmv predict`` or ``minicpmv eval``, in any
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

__all__ = ["Change", "Comparison", "Difference", "compare", "shared_metrics"]

_NAMED = 3
"""Records that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What one metric says of two files."""

    first: float
    second: float
    difference: float
    """Second less first."""
    low: float
    high: float
    """The two are the bounds of the 95 % interval. It leaves out 0 exactly where ``p_value`` is below 0.05."""
    p_value: float
    """How likely so large a difference is if the files were alike."""
    test: str
    num_better: int
    """Records that are better in the second."""
    num_worse: int
    num_records: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A record with another score in the second file."""

    key: str | int
    question: str
    references: tuple[str, ...]
    answers: tuple[str, str]
    scores: Mapping[str, tuple[float, float]]
    """Of the metrics that changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that was found."""

    num_records: int
    share: Share
    """How many answers are compared, of all that the records have."""
    differences: Mapping[str, Difference]
    num_changed: int
    changes: Sequence[Change]
    """The first of them."""


def compare(first: str, second: str, metrics: Sequence[Metric], *, seed: int = 0, max_changes: int = 10) -> Comparison:
    """Compare two files of answers.

    Args:
        first: Path of one.
        second: Path of the other.
        metrics: What is measured.
        seed: Of the drawn sets.
        max_changes: How many changed records are returned.

    Raises:
        UsageError: A file cannot be read, they are not of the same records, or a metric has no meaning for any.
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
                f"{metric.name}: found none of {len(order)} record(s) that it can measure in both files, expected "
                f"{metric.expects}\n  fix: leave the metric out, or name other files"
            )
        scores = ours.scores(metric)[known], theirs.scores(metric)[order][known]
        changed[known] |= scores[0] != scores[1]
        differences[metric.name] = _difference(metric, sides[0], sides[1], known, scores, seed)
    keys = [key for key, is_changed in zip(ours.positions, changed, strict=True) if is_changed][:max_changes]
    return Comparison(
        num_records=len(order),
        share=max(ours.share(), theirs.share(), key=lambda share: share.of),  # one file may not say it
        differences=differences,
        num_changed=int(changed.sum()),
        changes=list(_describe(first, second, keys, metrics)),
    )


def shared_metrics(first: str, second: str) -> list[str]:
    """Name the metrics that the first line of both files has scores of; ``exact_match`` if there are none.

    Raises:
        UsageError: A file cannot be read.
    """
    ours, theirs = (next(iter(read_answers(path))).fields.get("scores") for path in (first, second))
    both = [name for name in ours if name in theirs] if isinstance(ours, dict) and isinstance(theirs, dict) else []
    return both or ["exact_match"]


class _Side:
    """One file's records: their keys, and the numbers that metrics reduced them to."""

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
        """Return them as (records, numbers); not a number where the metric has no meaning."""
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
            named = ", ".join(map(repr, missing[:_NAMED])) + (" and more" if len(missing) > _NAMED else "")
            raise UsageError(
                f"{other.path}: found no line for {len(missing)} of {len(side.positions)} record(s) of {side.path} "
                f"({named}), expected the same records\n  fix: let both models answer the same data"
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
    """Measure one file on sets drawn anew; the same ones for both files, since they have the same order by now."""
    sums, counts = np.zeros((NUM_DRAWS, statistics.shape[1])), np.zeros(NUM_DRAWS)
    for block, start in enumerate(range(0, len(statistics), BLOCK)):
        mask = known[start : start + BLOCK]
        weights = draw_weights(block, seed=seed)[: len(mask)][mask]
        sums += weights.T @ statistics[start : start + BLOCK][mask]
        counts += weights.sum(axis=0)
    return values(metric, sums, counts)


def _describe(first: str, second: str, keys: Sequence[str | int], metrics: Sequence[Metric]) -> Iterator[Change]:
    """Read the lines of a few records again."""
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
