"""Compares the better and the worse answer of a record by words, for a page. What training compares are tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.data.records.record import Record
from minicpmv.pages.word_differences import Stretch, compare_words
from minicpmv.processing.text.tool_calls import spell_calls
from minicpmv.processing.text.turns import Turn

__all__ = ["Answers", "compare_answers"]


@dataclass(frozen=True, slots=True)
class Answers:
    """Holds two answers to one question."""

    better: tuple[Stretch, ...]
    worse: tuple[Stretch, ...]


def compare_answers(record: Record) -> Answers | None:
    """Mark where a record's two answers differ; None if it has one answer."""
    if not record.rejected:
        return None
    return Answers(*compare_words(_spell(record.turns[-1:]), _spell(record.rejected)))


def _spell(turns: Sequence[Turn]) -> str:
    """Write turns as one text; of several, each with its role."""
    texts = ["".join(part for part in turn.content if isinstance(part, str)) for turn in turns]
    said = [spell_calls(text, turn.calls) if turn.calls else text for text, turn in zip(texts, turns, strict=True)]
    return (
        said[0] if len(said) == 1 else "\n".join(f"{turn.role}: {text}" for turn, text in zip(turns, said, strict=True))
    )
