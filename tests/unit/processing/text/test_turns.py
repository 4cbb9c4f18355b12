from __future__ import annotations

import pytest

from minicpmv.processing.text.turns import ImageRef, Turn


def test_the_text_of_a_turn_leaves_images_out() -> None:
    assert Turn("user", (ImageRef(0), "What is it?", ImageRef(1, 0), "And this?")).text == "What is it?\nAnd this?"


def test_a_turn_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Turn("user", ("What?",)).role = "assistant"  # pyright: ignore[reportAttributeAccessIssue]
