"""Texts are compared without case, punctuation and articles, and words are counted in any script."""

from __future__ import annotations

import pytest

from minicpmv.evaluation.metrics.text import normalise, split_words


@pytest.mark.parametrize(
    ("text", "normalised"),
    [("The  cat, on “it”.", "cat on it"), ("猫。", "猫"), ("theatre", "theatre")],
)
def test_what_does_not_change_an_answer_is_left_out(text: str, normalised: str) -> None:
    assert normalise(text) == normalised


def test_a_chinese_character_is_a_word_and_an_apostrophe_ends_one() -> None:
    assert split_words("The cat's 2nd 猫咪!") == ["the", "cat", "s", "2nd", "猫", "咪"]
