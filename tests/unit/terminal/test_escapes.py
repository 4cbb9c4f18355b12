"""Control characters never reach a terminal as they are, and a name forges no line."""

from __future__ import annotations

import io
import sys

import pytest

from minicpmv.pages.templates import make_environment
from minicpmv.terminal import escapes
from minicpmv.terminal.escapes import escape, guard_output, remember_names


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escapes, "_names", {})


@pytest.mark.parametrize("character", [*map(chr, range(9)), "\r", "\x0b", "\x1b", "\x7f", "\x80", "\x9b", "\u2028"])
def test_control_character_is_shown_as_its_escape(character: str) -> None:
    shown = escape(f"a{character}b\tc\n")
    assert shown.isascii()
    assert shown.replace("\t", "").removesuffix("\n").isprintable()
    assert shown.startswith("a\\")


@pytest.mark.parametrize("mark", ["\u202a", "\u202e", "\u2066", "\u2069"])
def test_mark_that_turns_the_direction_is_shown(mark: str) -> None:
    assert escape(f"a{mark}b") == f"a\\u{ord(mark):04x}b"


def test_ordinary_text_of_any_language_stays() -> None:
    text = "Grüße, שלום!\u200f, مرحبا\u061c, 你好 🙂\n\tand more\u200e"
    assert escape(text) == text


def test_direction_mark_is_shown_in_a_remembered_name_alone() -> None:
    remember_names(["/data/cat\u200f.png"])
    assert escape("cat\u200f.png: found a picture\u200f") == "cat\\u200f.png: found a picture\u200f"


def test_newline_is_shown_in_a_remembered_name_alone() -> None:
    remember_names(["/data/a\nerror: forged/train.json"])
    assert escape("/data/a\nerror: forged/train.json: found\nfix") == "/data/a\\nerror: forged/train.json: found\nfix"


def test_all_that_is_printed_is_guarded_and_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with guard_output(["x\nerror: y"]):
        print("x\nerror: y", "\x1b[2J")
        print("\r50 %\x1b[2J\r", file=sys.stderr)
        print("\ud800")
    assert (sys.stdout, sys.stderr) == before
    printed = capsys.readouterr()
    assert printed.out == "x\\nerror: y \\x1b[2J\n\\ud800\n"
    assert printed.err == "\r50 %\\x1b[2J\r\n"


def test_terminal_gets_the_sequences_that_stand_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", written)
    with guard_output([]):
        for text in ("\x1b[1m", "\n\x1b[A", "\x1b[2J", "a\x1b[1m"):
            sys.stderr.write(text)
    assert written.getvalue() == "\x1b[1m\n\x1b[A\\x1b[2Ja\\x1b[1m"


def test_pages_show_escapes() -> None:
    template = make_environment("minicpmv.report").from_string("{{ name }} {{ safe | safe }}\n")
    assert template.render(name="<\x1b\u202e", safe="<b>\r</b>") == "&lt;\\x1b\\u202e <b>\\r</b>"
