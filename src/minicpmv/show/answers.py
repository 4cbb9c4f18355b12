"""Compares the better and the worse answer of a record by words, for a page. What training compares are tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from minicpmv.data.records.record import Record
from minicpmv.processing.text.tool_calls import spell_calls
from minicpmv.processing.text.turns import Turn

__all__ = ["Answers", "Stretch", "compare_answers"]

_ONE_BY_ONE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts that put no space between words."""
_WORD = re.compile(rf"\s+|[^\W{_ONE_BY_ONE}]+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Holds words of an answer that follow each other."""

    text: str
    is_changed: bool
    """Whether the other answer has something else here, or nothing."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Holds two answers to one question."""

    better: tuple[Stretch, ...]
    worse: tuple[Stretch, ...]


def compare_answers(record: Record) -> Answers | None:
    """Mark where a record's two answers differ; None if it has one answer."""
    if not record.rejected:
        return None
    first, second = (_WORD.findall(_spell(turns)) for turns in (record.turns[-1:], record.rejected))
    changes = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    return Answers(
        _join((first[start:end], what != "equal") for what, start, end, _, _ in changes),
        _join((second[start:end], what != "equal") for what, _, _, start, end in changes),
    )


def _join(parts: Iterable[tuple[Sequence[str], bool]]) -> tuple[Stretch, ...]:
    return tuple(Stretch("".join(words), is_changed) for words, is_changed in parts if words)


def _spell(turns: Sequence[Turn]) -> str:
    """Write turns as one text; of several, each with its role."""
    texts = ["".join(part for part in turn.content if isinstance(part, str)) for turn in turns]
    said = [spell_calls(text, turn.calls) if turn.calls else text for text, turn in zip(texts, turns, strict=True)]
    return (
        said[0] if len(said) == 1 else "\n".join(f"{turn.role}: {text}" for turn, text in zip(turns, said, strict=True))
    )
