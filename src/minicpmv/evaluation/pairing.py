"""Pairs a better with a worse answer to the same question, by their scores.

The rules are RLAIF-V's (Yu et al., 2024, arXiv:2405.17220): scores a fixed step apart, a drawn number of pairs for
each question, and as many pairs whose better answer is the longer one as pairs whose better answer is the shorter one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.wording import counted

__all__ = ["Pair", "Scored", "Unpaired", "balance_lengths", "find_pairs"]


@dataclass(frozen=True, slots=True)
class Scored:
    """Holds one answer."""

    text: str
    score: float
    """Higher is better."""
    draw: int = 0
    """Its number among the answers to the question; 0 for the recorded one."""


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


@dataclass(kw_only=True, slots=True)
class Unpaired:
    """Counts the questions that gave no pair, by why, and says what to change."""

    best: float | None = None
    """Score of an answer that cannot be better; None where scores have no such end."""
    worst: float | None = None
    """Score of an answer that is simply wrong; None where scores have no such end."""
    unscored: int = 0
    """Fewer than two answers have a score: the right answer is not known, or the answers are empty."""
    right: int = 0
    """All answers have the best score."""
    wrong: int = 0
    """All answers have the worst score."""
    equal: int = 0
    """All answers have another score, the same one."""
    near: int = 0
    """Scores differ, but by less than a pair needs."""
    alike: int = 0
    """Questions among all these whose scored answers have one text."""

    @property
    def number(self) -> int:
        """Count all questions without a pair."""
        return self.unscored + self.right + self.wrong + self.equal + self.near

    def add(self, answers: Sequence[Scored]) -> None:
        """Count a question that gave no pair.

        Args:
            answers: Its scored answers.
        """
        scores = [answer.score for answer in answers]
        if len(scores) < 2:
            self.unscored += 1
            return
        self.alike += len({answer.text for answer in answers}) == 1
        if self.best is not None and min(scores) >= self.best:
            self.right += 1
        elif self.worst is not None and max(scores) <= self.worst:
            self.wrong += 1
        elif min(scores) == max(scores):
            self.equal += 1
        else:
            self.near += 1

    def describe(self) -> str:
        """Say in a clause why there was no pair; empty if every question gave one.

        >>> Unpaired(right=3, wrong=1, alike=2).describe()
        '4 questions gave no pair: 3 right every time, 1 wrong every time (in 2, all answers are the same text)'
        """
        if not self.number:
            return ""
        reasons = {
            "right every time": self.right,
            "wrong every time": self.wrong,
            "the same score every time": self.equal,
            "scores too close": self.near,
            "fewer than two scored answers": self.unscored,
        }
        told = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items() if number)
        alike = f" (in {self.alike:,}, all answers are the same text)" if self.alike else ""
        return f"{counted(self.number, 'question')} gave no pair: {told}{alike}"

    def advise(self) -> str:
        """Say what to change where no question gave a pair: what mends the commonest reason."""
        advice = {
            "ask harder questions: the model knows these answers": self.right,
            "teach the model such answers first (supervised training), draw more of them (--answers), or pair them "
            "with the recorded ones (--with-recorded)": self.wrong,
            "judge by a metric that tells more answers apart": self.equal,
            "lower --min-gap": self.near,
            "add answers or 'references' to the records, or raise --max-new-tokens where answers are empty": (
                self.unscored
            ),
        }
        most = max(advice, key=lambda each: advice[each])
        return f"raise --temperature, so that answers differ, or {most}" if 2 * self.alike > self.number else most


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
