"""Counts how answers and scores are spread over all records: what was answered for what, and how good answers were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.report.answers.pairs import Pair

__all__ = ["Confusion", "ScoreHistogram", "count_confusion", "count_scores"]

_MOST_LABELS = 12
"""Most different expected answers of a table that fits a page."""
_LONGEST_LABEL = 20
"""Characters."""
_FEWEST_OF_A_LABEL = 2
"""Records per expected answer, on average: with fewer, answers are texts of their own and no classes."""
_NUM_BINS = 10
OTHER = "another answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """Counts answers by what was expected, for one asking."""

    when: str
    columns: Sequence[str]
    """The expected answers, and ``OTHER`` if there are any."""
    rows: Sequence[tuple[str, Sequence[int], int]]
    """Expected answer; its records by column; all its records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreHistogram:
    """Counts records by score, for one asking."""

    when: str
    edges: Sequence[float]
    """Bounds of the bins, one more than there are bins."""
    counts: Sequence[int]
    share_of_largest: Sequence[float]
    """Each count as a share of the largest one, before or after."""


def count_confusion(pairs: Sequence[Pair]) -> list[Confusion]:
    """Return a table of the first answers and one of the last; none where expected answers are not a few short ones."""
    expected = [pair.expected[0].strip() if len(pair.expected) == 1 else "" for pair in pairs]
    labels = sorted(
        set(expected), key=lambda label: (len(label), label) if label.isdigit() else (_LONGEST_LABEL, label)
    )
    if not all(0 < len(label) <= _LONGEST_LABEL and "\n" not in label for label in labels):
        return []
    if not 2 <= len(labels) <= _MOST_LABELS or len(pairs) < _FEWEST_OF_A_LABEL * len(labels):
        return []
    return [_table(place, pairs, expected, labels) for place in (0, -1)]


def _table(place: int, pairs: Sequence[Pair], expected: Sequence[str], labels: Sequence[str]) -> Confusion:
    named = {label.casefold(): label for label in labels}
    counted = Counter(
        (wanted, named.get(pair.answers[place][1].strip().casefold(), OTHER))
        for wanted, pair in zip(expected, pairs, strict=True)
    )
    columns = [*labels, OTHER]
    rows = [(label, [counted[label, column] for column in columns], expected.count(label)) for label in labels]
    if not any(counts[-1] for _, counts, _ in rows):
        columns, rows = columns[:-1], [(label, counts[:-1], total) for label, counts, total in rows]
    return Confusion(when=pairs[0].answers[place][0], columns=columns, rows=rows)


def count_scores(pairs: Sequence[Pair]) -> list[ScoreHistogram]:
    """Return a histogram of the first scores and one of the last, over the same bins; none without scores to spread."""
    scores = [(before, after) for before, after in (pair.scores for pair in pairs) if None not in (before, after)]
    found = [score for both in scores for score in both if score is not None]
    if len(set(found)) < 3:  # right or wrong: the numbers above say it all
        return []
    low, high = min(0.0, *found), max(1.0, *found)
    width = (high - low) / _NUM_BINS
    edges = [low + width * number for number in range(_NUM_BINS + 1)]
    counts = [
        Counter(min(int(((both[place] or 0.0) - low) / width), _NUM_BINS - 1) for both in scores) for place in (0, 1)
    ]
    largest = max(max(each.values()) for each in counts)
    return [
        ScoreHistogram(
            when=pairs[0].answers[place][0],
            edges=edges,
            counts=[counted[number] for number in range(_NUM_BINS)],
            share_of_largest=[counted[number] / largest for number in range(_NUM_BINS)],
        )
        for place, counted in zip((0, -1), counts, strict=True)
    ]
