"""What is noted of an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.ui import notes
from minicpmv.ui.notes import Clock, Note, describe_files, is_right
from tests.tiny import FIXTURES, save_picture


def test_pictures_are_described_as_the_model_gets_them(tmp_path: Path) -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    wide, small = save_picture(tmp_path / "wide.png", 150, 80), save_picture(tmp_path / "small.png", 30, 20)

    def describe(max_slice_nums: int | None) -> list[str]:
        return list(describe_files(processor, [wide, small], [], max_slice_nums=max_slice_nums))

    tokens = processor.query_num
    assert describe(None) == [
        f"150 × 80 px: 3 × 1 tiles and the whole, {4 * tokens} image tokens",
        f"30 × 20 px: no tiles, {tokens} image tokens",
    ]
    assert describe(1)[0] == f"150 × 80 px: no tiles, {tokens} image tokens"


def test_others_turns_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(notes.time, "perf_counter", lambda: now)
    clock = Clock(_since=now)
    for own, others in ((0.5, 3.0), (0.25, 3.0), (0.25, 3.0)):
        now += own
        clock.stop()
        now += others
        clock.resume()
    assert (clock.num_tokens, clock.first_seconds, clock.later_seconds) == (3, 0.5, 0.5)
    assert str(clock) == "answer: 3 tokens, the first after 0.5 s, then 4.0 tokens/s"


@pytest.mark.parametrize(
    ("expected", "answer", "verdict"),
    [
        (("four",), "four", True),
        (("4", "four"), "four", True),
        (("four",), "Four", False),
        (("four",), "<think>\nfour?\n</think>\n\nfour", True),
        (("four\nfive",), "four\nfive", None),
        (("x" * 61,), "x" * 61, None),
        ((), "four", None),
    ],
)
def test_only_a_short_answer_is_judged(expected: tuple[str, ...], answer: str, verdict: bool | None) -> None:
    assert is_right(Note(shown=(), clock=Clock(), expected=expected), answer) is verdict
