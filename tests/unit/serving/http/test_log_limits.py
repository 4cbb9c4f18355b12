"""A log does not grow with what strangers do, and hides nothing but how often."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from minicpmv.serving.http.log_limits import LogLimit


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Limited:
    """A logger with a limit, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log, self._handler = logging.getLogger("tests.limited"), _Lines()
        self.log.propagate = False
        self.log.setLevel(logging.INFO)
        self.limit = LogLimit(clock=lambda: self.now)
        self.log.addFilter(self.limit)
        self.log.addHandler(self._handler)

    def take(self) -> list[str]:
        lines = list(self._handler.lines)
        self._handler.lines.clear()
        return lines

    def close(self) -> None:
        self.log.removeFilter(self.limit)
        self.log.removeHandler(self._handler)


@pytest.fixture
def limited() -> Iterator[Limited]:
    made = Limited()
    yield made
    made.close()


def test_a_few_lines_of_a_kind_are_written_and_the_others_counted(limited: Limited) -> None:
    for number in range(1000):
        limited.log.warning("refused %d", number)
    limited.log.warning("something else")
    assert limited.take() == [f"refused {number}" for number in range(5)] + ["something else"]
    limited.now = 61
    limited.limit.summarize()
    limited.limit.summarize()
    assert limited.take() == ["995 more lines like: refused 999"]


def test_the_count_comes_before_the_next_line_of_any_kind(limited: Limited) -> None:
    for _ in range(7):
        limited.log.warning("refused")
    limited.now = 61
    limited.log.warning("something else")
    assert limited.take()[5:] == ["2 more lines like: refused", "something else"]


def test_a_day_of_a_flood_is_less_than_200_lines(limited: Limited) -> None:
    for second in range(24 * 3600):
        limited.now = second
        limited.log.warning("refused")
    assert 100 < len(limited.take()) < 200


def test_a_quiet_hour_lets_lines_through_again(limited: Limited) -> None:
    for _ in range(100):
        limited.log.warning("refused")
    for limited.now in (61.0, 5000.0):
        limited.limit.summarize()
    limited.take()
    for _ in range(100):
        limited.log.warning("refused")
    assert limited.take() == ["refused"] * 5


def test_kinds_without_end_are_one(limited: Limited) -> None:
    for number in range(10_000):
        limited.log.error(f"object {number} is not closed")
    assert len(limited.take()) <= 105


def test_a_record_may_have_a_limit_of_its_own(limited: Limited) -> None:
    for _ in range(100):
        limited.log.info("answered", extra={"max_lines": 60})
        limited.log.info("answered with a key", extra={"max_lines": None})
    lines = limited.take()
    assert (lines.count("answered"), lines.count("answered with a key")) == (60, 100)
