"""Pairs the answers to the same records before and after training, judges them and sorts them by what changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from minicpmv.data.records.answers import FIRST
from minicpmv.errors import UsageError
from minicpmv.evaluation.comparison import Difference, compare, shared_metrics
from minicpmv.evaluation.metrics.base import Metric, Sample
from minicpmv.evaluation.metrics.registry import find_metrics
from minicpmv.evaluation.score_files import Answered, ShareOfFile, make_sample, read_answers
from minicpmv.evaluation.scores import measure, shown
from minicpmv.report.answers.films import FilmOfLine, read_films
from minicpmv.report.run_directory import Entry, Run

__all__ = [
    "KINDS",
    "AnswerSet",
    "Kind",
    "Pair",
    "Value",
    "badness_of",
    "change_of",
    "compare_files",
    "compare_samples",
]

Kind = Literal["better", "worse", "right", "wrong"]
KINDS: tuple[Kind, ...] = ("worse", "wrong", "better", "right")
"""Kinds in the order of the page: what one opens it for comes first."""

_JUDGED_BY = "exact_match"
_DRAWS_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Holds the answers of one record, asked twice or more."""

    name: str
    question: str
    expected: Sequence[str]
    answers: Sequence[tuple[str, str]]
    """Time and text of each answer; the first and the last are compared."""
    scores: tuple[float | None, float | None]
    """Scores of these two; None where the metric cannot measure."""
    images: Sequence[str]
    films: Sequence[FilmOfLine]
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """Words one metric's result for two whole files."""

    metric: str
    before: str
    after: str
    difference: str
    interval: str
    """95 % interval of the difference."""
    p_value: str
    num_records: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSet:
    """Holds all pairs of one source."""

    title: str
    metric: str
    """Name of the metric that judges the answers."""
    best: float
    """Best possible score of an answer."""
    is_binary: bool
    """Whether every score is simply right or wrong."""
    counts: dict[Kind, int]
    all_pairs: Sequence[Pair]
    """In the order of the file."""
    pairs: Sequence[Pair]
    """The first pairs of each kind."""
    share: str
    """Share of the records' answers that were asked for; empty if it is all."""
    values: Sequence[Value] = ()
    """Results over whole files."""


def compare_samples(run: Run, *, most: int) -> AnswerSet | None:
    """Compare a run's first sampled answers, before step 1, with its last; None if it was not asked twice.

    Args:
        run: The run with its samples.
        most: Number of pairs to keep of each kind.
    """
    (metric,) = find_metrics([_JUDGED_BY])
    by_record: dict[str, list[Entry]] = {}
    for sample in run.samples:
        by_record.setdefault(str(sample.get("record")), []).append(sample)
    pairs = [_pair_of_samples(name, asked, metric) for name, asked in by_record.items() if len(asked) > 1]
    of_file = ShareOfFile(FIRST)
    for asked in by_record.values():
        of_file.add(asked[-1])
    return _sort("Answers during training", pairs, metric, most, str(of_file.share())) if pairs else None


def compare_files(before: str, after: str, *, most: int) -> AnswerSet:
    """Compare two files of answers by the first metric for which both have scores.

    Args:
        before: Written by ``minicpmv predict`` or ``minicpmv eval --output``.
        after: The same from the trained model.
        most: Number of pairs to keep of each kind.

    Raises:
        UsageError: A file cannot be read, or they are not of the same records.
    """
    metrics = find_metrics(shared_metrics(before, after))
    found = compare(before, after, metrics, seed=_DRAWS_SEED, max_changes=0)
    judge = next((metric for metric in metrics if metric.needs_answers and not metric.sees_all_first), None)
    if judge is None:
        raise UsageError(
            f"{after}: found scores of {', '.join(metric.name for metric in metrics)} only, expected a metric that "
            "judges each answer by itself\n  fix: let `minicpmv eval` measure exact_match as well"
        )
    values = [_word(metric, found.differences[metric.name]) for metric in metrics]
    first = {answered.key: answered for answered in read_answers(before)}
    pairs = [_pair_of_lines(first[answered.key], answered, judge) for answered in read_answers(after)]
    return _sort("Answers before and after", pairs, judge, most, str(found.share), values=values)


def _word(metric: Metric, found: Difference) -> Value:
    return Value(
        metric=metric.name,
        before=shown(metric, found.first),
        after=shown(metric, found.second),
        difference=shown(metric, found.difference),
        interval=f"{shown(metric, found.low)} to {shown(metric, found.high)}",
        p_value="< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
        num_records=found.num_records,
    )


def _sort(
    title: str,
    pairs: Sequence[Pair],
    metric: Metric,
    most: int,
    share: str,
    values: Sequence[Value] = (),
) -> AnswerSet:
    of_kind: dict[Kind, list[Pair]] = {kind: [pair for pair in pairs if pair.kind == kind] for kind in KINDS}
    for kind in ("better", "worse"):
        of_kind[kind].sort(key=lambda pair: -abs(change_of(pair.scores)))
    of_kind["wrong"].sort(key=lambda pair: -badness_of(pair.scores[1], best=_best(metric)))
    return AnswerSet(
        title=title,
        metric=metric.name,
        best=_best(metric),
        is_binary=all(score in (0, 1, None) for pair in pairs for score in pair.scores),
        counts={kind: len(of_kind[kind]) for kind in KINDS},
        all_pairs=pairs,
        pairs=[pair for kind in KINDS for pair in of_kind[kind][:most]],
        share=share,
        values=values,
    )


def _pair_of_samples(name: str, asked: Sequence[Entry], metric: Metric) -> Pair:
    expected = str(asked[-1].get("expected") or "")
    answers = [(f"step {sample['step']:,}", str(sample.get("answer") or "")) for sample in asked]
    first, last = (
        _score(metric, make_sample(question="", answer=answer, references=(expected,)))
        for answer in (answers[0][1], answers[-1][1])
    )
    return Pair(
        name=name,
        question=str(asked[-1].get("question") or ""),
        expected=(expected,),
        answers=answers,
        scores=(first, last),
        images=_texts(asked[-1].get("images")),
        films=read_films(asked[-1].get("videos")),
        kind=_judge((first, last), metric),
    )


def _pair_of_lines(before: Answered, after: Answered, metric: Metric) -> Pair:
    scores = _score(metric, before.sample), _score(metric, after.sample)
    return Pair(
        name=str(after.key),
        question=after.sample.question,
        expected=after.sample.references,
        answers=[(when, str(each.fields.get("answer") or "")) for when, each in (("before", before), ("after", after))],
        scores=scores,
        images=_texts(after.fields.get("images") or before.fields.get("images")),
        films=read_films(after.fields.get("videos") or before.fields.get("videos")),
        kind=_judge(scores, metric),
    )


def _score(metric: Metric, sample: Sample) -> float | None:
    found = measure(metric, sample)
    return None if found is None else metric.score(found)


def _judge(scores: tuple[float | None, float | None], metric: Metric) -> Kind:
    change = change_of(scores)
    if change:
        return "better" if (change > 0) == metric.higher_is_better else "worse"
    return "right" if scores[1] == _best(metric) else "wrong"


def _best(metric: Metric) -> float:
    """Return the best possible score of an answer; metrics up to 100 have no answer that is simply right."""
    return 1.0 if metric.higher_is_better else 0.0


def change_of(scores: tuple[float | None, float | None]) -> float:
    """Return the last score less the first; nothing where the metric could not measure one of them."""
    before, after = scores
    return 0.0 if before is None or after is None else after - before


def badness_of(score: float | None, *, best: float) -> float:
    """Return how far a score is from the best one; nothing where the metric could not measure."""
    return 0.0 if score is None else abs(best - score)


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, Iterable) and not isinstance(values, str) else []
