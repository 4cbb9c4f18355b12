"""Tells the thinking in an answer from the rest of it, as Qwen3's template does (4.5).

Thinking stands between ``<think>`` and ``</think>`` at the start of an answer. The template writes it in a form of its
own and leaves some of it out; what it leaves out is named here, so that a caller can decide whether that may be.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["THINK", "THOUGHT", "Answer", "split_thinking", "without_thinking"]

THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody answered."""

    thought: str
    """The thinking, without the line breaks around it; empty for none."""
    text: str
    """What was said after it. Without thinking, the answer as it stands."""
    stray: str = ""
    """Text for which the template has no place: before ``<think>``, or between two ends of thinking."""


def split_thinking(content: str) -> Answer:
    r"""Split an answer.

    >>> split_thinking("<think>\n1 + 1\n</think>\n\n2")
    Answer(thought='1 + 1', text='2', stray='')
    """
    if THOUGHT not in content:
        return Answer("", content)
    thinking, _, rest = content.partition(THOUGHT)
    before, _, thought = thinking.rpartition(THINK)
    between, _, text = rest.rpartition(THOUGHT)
    stray = [piece.strip() for piece in (before, between)]
    return Answer(thought.strip("\n"), text.lstrip("\n"), " ".join(piece for piece in stray if piece))


def without_thinking(content: str) -> str:
    r"""Return what was said, without the thinking before it and white space around it.

    >>> without_thinking("<think>\n1 + 1\n</think>\n\n2")
    '2'
    """
    return split_thinking(content).text.strip()
