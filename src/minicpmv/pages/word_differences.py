"""Marks the words in which two texts differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["Stretch", "compare_words"]

_ONE_BY_ONE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts that put no space between words."""
_WORD = re.compile(rf"\s+|[^\W{_ONE_BY_ONE}]+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Holds words of a text that follow each other."""

    text: str
    is_changed: bool
    """Whether the other text has something else here, or nothing."""


def compare_words(first: str, second: str) -> tuple[tuple[Stretch, ...], tuple[Stretch, ...]]:
    """Cut two texts into stretches that both have, and stretches that only one has.

    Returns:
        Those of the first text and those of the second; each, joined, is its text.
    """
    ours, theirs = _WORD.findall(first), _WORD.findall(second)
    changes = SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    return (
        _join((ours[start:end], what != "equal") for what, start, end, _, _ in changes),
        _join((theirs[start:end], what != "equal") for what, _, _, start, end in changes),
    )


def _join(parts: Iterable[tuple[Sequence[str], bool]]) -> tuple[Stretch, ...]:
    return tuple(Stretch("".join(words), is_changed) for words, is_changed in parts if words)
