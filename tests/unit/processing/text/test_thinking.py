"""Thinking is told from the answer behind it, and text for which the template has no place is named."""

from __future__ import annotations

import pytest

from minicpmv.processing.text.thinking import Answer, split_thinking, without_thinking


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("2", Answer("", "2")),
        ("<think>\n1 + 1\n</think>\n\n2", Answer("1 + 1", "2")),
        ("<think>\n\n</think>\n\n2", Answer("", "2")),
        ("Well. <think>1 + 1</think>2", Answer("1 + 1", "2", "Well.")),
        ("<think>a</think>b</think>c", Answer("a", "c", "b")),
        ("<think>never ended", Answer("", "<think>never ended")),
    ],
)
def test_an_answer_is_split_at_the_end_of_its_thinking(content: str, answer: Answer) -> None:
    assert split_thinking(content) == answer


def test_what_was_said_has_no_white_space_around_it() -> None:
    assert without_thinking("<think>1 + 1</think>\n\n 2 \n") == "2"
