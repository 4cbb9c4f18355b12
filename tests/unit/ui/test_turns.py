"""Whoever shares a model writes in turn."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from minicpmv.ui.turns import Turns


def write(lengths: list[int], *, fails: int | None = None) -> tuple[str, str]:
    """Let each write as many letters as it wants; return the text, and for each letter whose setting was entered."""
    text, entered, inside = list[str](), list[str](), list[str]()

    @contextmanager
    def speaking(name: str) -> Iterator[None]:
        inside.append(name)
        yield
        inside.remove(name)

    names = "abc"[: len(lengths)]
    turns = Turns([lambda name=name: speaking(name) for name in names])

    def part(number: int) -> None:
        with turns.taking_part(number) as hand_on:
            for _ in range(lengths[number]):
                text.append(names[number])
                entered.append("".join(inside))
                hand_on()
            if number == fails:
                raise ValueError("as the test wants")

    with ThreadPoolExecutor(len(lengths)) as pool:
        parts = [pool.submit(part, number) for number in range(len(lengths))]
    for number, done in enumerate(parts):
        assert (done.exception(timeout=10) is not None) is (number == fails)
    assert inside == []
    return "".join(text), "".join(entered)


@pytest.mark.parametrize(("lengths", "text"), [([3], "aaa"), ([3, 3], "ababab"), ([1, 4, 2], "abcbcbb")])
def test_everybody_writes_one_token_and_hands_on(lengths: list[int], text: str) -> None:
    assert write(lengths) == (text, text)


def test_who_fails_holds_nobody_up() -> None:
    text, _ = write([1, 3], fails=0)
    assert text == "abbb"
