"""What counts as the same answer."""

from __future__ import annotations

import pytest

from minicpmv.evaluation.answers import Prediction, exact_match


def prediction(said: str, known: str) -> Prediction:
    return Prediction(index=0, id=0, question="What is it?", answer=said, reference=known)


@pytest.mark.parametrize(
    ("said", "known", "same"),
    [
        ("A cat.", "A cat.", True),
        (" A cat.\n", "A cat.", True),
        ("A cat", "A cat.", False),
        ("<think>\nA tail.\n</think>\n\nA cat.", "A cat.", True),
        ("<think>\nA tail.\n</think>\n\nA cat.", "<think>\nWhiskers.\n</think>\n\nA cat.", True),
        ("<think>\nA cat.\n</think>\n\nA dog.", "A cat.", False),
        ("<think>\nA cat.", "A cat.", False),
    ],
)
def test_only_what_is_said_after_the_thoughts_is_compared(said: str, known: str, same: bool) -> None:
    assert prediction(said, known).is_exact is same


def test_exact_match_is_a_share() -> None:
    assert exact_match([prediction("a", "a"), prediction("b", "a")]) == 0.5
    assert exact_match([]) == 0
