"""The next item is prepared while its predecessor is worked on, and nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from minicpmv.errors import UsageError
from minicpmv.inference.ahead import ahead


def test_the_next_is_prepared_meanwhile_and_no_more() -> None:
    prepared = [threading.Event() for _ in range(4)]

    def prepare(number: int) -> int:
        prepared[number].set()
        return number * 10

    with closing(ahead(range(4), prepare)) as ready:
        assert next(ready) == 0
        assert prepared[1].wait(timeout=10)
        assert not prepared[2].wait(timeout=0.1)
        assert list(ready) == [10, 20, 30]


def test_a_fault_is_raised_in_its_turn() -> None:
    def prepare(number: int) -> int:
        if number == 2:
            raise UsageError("two")
        return number

    seen: list[int] = []
    with pytest.raises(UsageError, match="two"):
        seen.extend(ahead(range(5), prepare))  # which keeps what came before
    assert seen == [0, 1]


def test_so_is_one_of_the_items_themselves() -> None:
    def items() -> Iterator[int]:
        yield from range(2)
        raise UsageError("no more")

    seen: list[int] = []
    with pytest.raises(UsageError, match="no more"):
        seen.extend(ahead(items(), int))
    assert seen == [0, 1]


def test_no_thread_is_left_by_a_reader_who_has_seen_enough() -> None:
    before = threading.active_count()
    with closing(ahead(iter(int, 1), str)) as ready:  # for ever
        assert next(ready) == "0"
    assert threading.active_count() == before
