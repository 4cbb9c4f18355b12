"""Pairs a better with a worse answer to the same question, by their scores.

The rules are RLAIF-V's (Yu et al., 2024, arXiv:2405.17220): scores a fixed step apart, a drawn number of pairs for
each question, and as many pairs whose better answer is the longer one as pairs whose better answer is the shorter one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Pair", "Scored", "balance_lengths", "find_pairs"]


@dataclass(frozen=True, slots=True)
class Scored:
    """Holds one answer."""

    text: str
    score: float
    """Higher is better."""
    draw: int = 0
    """Its number among the answers to the question."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Holds two answers to one question."""

    index: int
    """Number of the question."""
    chosen: Scored
    rejected: Scored

    @property
    def longer(self) -> int:
        """Characters that the better answer is longer; negative if it is shorter."""
        return len(self.chosen.text) - len(self.rejected.text)


def find_pairs(index: int, answers: Sequence[Scored], *, min_gap: float, most: int, seed: int) -> list[Pair]:
    """Return pairs of one question's answers, drawn from all that its scores allow.

    Args:
        index: Number of the question; with the seed it decides what is drawn.
        answers: Its answers. Of equal texts the first counts.
        min_gap: By how much the scores of two answers must differ at least; 0: by anything.
        most: Pairs to draw; fewer where there are fewer.
        seed: Seed of all questions.
    """
    distinct = list({answer.text: answer for answer in reversed(answers)}.values())[::-1]
    found = [
        Pair(index, better, worse)
        for better in distinct
        for worse in distinct
        if better.score > worse.score and better.score - worse.score >= min_gap
    ]
    drawn = random.Random(f"{seed} {index}").sample(range(len(found)), min(most, len(found)))
    return [found[place] for place in sorted(drawn)]


def balance_lengths(pairs: Sequence[Pair]) -> list[Pair]:
    """Drop pairs until the better answer is as often the longer one as the shorter one.

    Those go first whose answers differ most in length, relative to the longer one. Pairs of equal length stay.

    >>> pairs = [Pair(n, Scored("x" * n, 1), Scored("xx", 0)) for n in (1, 2, 3, 9)]
    >>> [pair.index for pair in balance_lengths(pairs)]
    [1, 2, 3]
    """
    longer = [place for place, pair in enumerate(pairs) if pair.longer > 0]
    shorter = [place for place, pair in enumerate(pairs) if pair.longer < 0]
    more = max(longer, shorter, key=len)
    surplus = abs(len(longer) - len(shorter))
    dropped = set(sorted(more, key=lambda place: -_relative(pairs[place]))[:surplus])
    return [pair for place, pair in enumerate(pairs) if place not in dropped]


def _relative(pair: Pair) -> float:
    return abs(pair.longer) / max(len(pair.chosen.text), len(pair.rejected.text))
