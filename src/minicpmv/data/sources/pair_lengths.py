"""Counts how often the better answer of a pair is the longer one. Training on such pairs teaches length first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from minicpmv.data.records.record import RawRecord
from minicpmv.errors import Problem
from minicpmv.wording import counted, name_few

__all__ = ["PairLengths", "Unit", "compare_lengths", "judge_lengths", "measure_pair"]

Unit = Literal["characters", "tokens"]

_LOWEST, _HIGHEST = 0.3, 0.7
"""Shares outside of which lengths tell the answers apart."""
_FEWEST = 20
"""Pairs. The share of fewer is chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLengths:
    """Compares the lengths of answers, over all pairs."""

    pairs: int
    unequal: int
    """Pairs whose answers differ in length."""
    longer_share: float | None
    """Pairs whose better answer is longer, among the unequal ones, 0 to 1; None where there is none."""
    unit: Unit
    """What lengths were counted in."""


def measure_pair(record: RawRecord, length_of: Callable[[str], int]) -> tuple[int, int] | None:
    """Return the lengths of a record's better and worse answer; None if it is no pair, or a faulty one.

    Args:
        record: The record, in our form.
        length_of: Measures one text.
    """
    fields = cast("dict[str, object]", record.value) if isinstance(record.value, dict) else {}
    talk, rejected = fields.get("conversations"), fields.get("rejected")
    if not (isinstance(talk, list) and talk and isinstance(rejected, list) and rejected):
        return None
    texts = [_texts(cast("list[object]", turns)) for turns in (talk[-1:], rejected)]
    if not all(texts):
        return None
    better, worse = (sum(map(length_of, each)) for each in texts)
    return better, worse


def _texts(turns: Sequence[object]) -> list[str]:
    messages = [cast("dict[str, object]", turn) for turn in turns if isinstance(turn, dict)]
    contents = [message.get("content") for message in messages if message.get("role") == "assistant"]
    return [content for content in contents if isinstance(content, str)]


def compare_lengths(lengths: Iterable[tuple[int, int]], unit: Unit) -> PairLengths | None:
    """Sum up pairs of lengths, of better and worse answers; None where there is no pair."""
    pairs = list(lengths)
    if not pairs:
        return None
    longer = [better > worse for better, worse in pairs if better != worse]
    share = sum(longer) / len(longer) if longer else None
    return PairLengths(pairs=len(pairs), unequal=len(longer), longer_share=share, unit=unit)


def judge_lengths(lengths: PairLengths | None, paths: Sequence[str]) -> Problem | None:
    """Return a notice if the length of an answer mostly says whether it is the better one."""
    if lengths is None or lengths.longer_share is None or lengths.unequal < _FEWEST:
        return None
    share = lengths.longer_share
    if _LOWEST <= share <= _HIGHEST:
        return None
    found = f"{counted(lengths.unequal, 'pair')} of unequal length, of which the better answer is longer in {share:.1%}"
    expected = (
        f"{_LOWEST:.0%} to {_HIGHEST:.0%}, in {lengths.unit}; else length alone tells the answers apart, and is learnt"
    )
    fix = "balance the pairs by length, as minicpmv pairs does, or choose a loss of the margin for each token"
    return Problem("D333", name_few(paths), found, expected, fix, severity="notice")
