"""Finds oddities in a record's text and paths: allowed, trained on as written, and seldom meant. They stop no run.

Problems that stop one are in ``checking``; oddities of image files are in ``image_traits``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from minicpmv.data.checks.other_tools.foreign_marks import is_picture_mark
from minicpmv.data.checks.placeholders import PLACEHOLDER
from minicpmv.data.records.record import RawRecord, quote
from minicpmv.errors import Problem
from minicpmv.wording import counted

__all__ = ["find_path_oddity", "find_text_oddities"]

_CONTROL_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>|</?s>|<(?:unk|pad|bos|eos|mask|CLS|SEP|UNK|PAD)>|<\uff5c[^<>\s]{1,40}\uff5c>"
    r"|</?(?:slice|image_id|unit|tool_call|tool_response)>|</image>|<im_(?:start|end|patch)>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>"
)
"""Control tokens: those of MiniCPM-V's releases and of the templates that data are copied from."""
_CONTROL_CHARACTER = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab, line feed, carriage return, and NUL, a problem; and marks that reorder text."""


def find_text_oddities(record: RawRecord) -> Iterator[Problem]:
    """Yield at most one notice of each kind for every message of a record, even if the record has problems."""
    for place, role, content in record.messages():
        for code, found, expected, fix in _oddities_of(role, content):
            yield _notice(code, record.where(f"{place}.content"), found, expected, fix)


def _oddities_of(role: object, content: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield code, found, expected and fix."""
    token = next(_control_tokens(role, content), None) or (role != "user" and PLACEHOLDER.search(content)) or None
    if token:
        expected = "no mark of a template; it is plain text here and ends no turn and shows no image"
        yield "D311", quote(token.group()), expected, "remove it, unless the text is about it"
    control = _CONTROL_CHARACTER.search(content)
    if control:
        found = f"the control character {control.group()!r} at character {control.start()}"
        fix = "remove it: it is invisible, and the model learns to write it"
        yield "D312", found, "letters, signs, tabs and line feeds; kept as it is", fix
    if "\r" in content:
        found = f"{counted(content.count(chr(13)), 'carriage return')}, the first at character {content.index(chr(13))}"
        fix = "write line breaks as \\n"
        yield "D313", found, "line feeds alone; kept, so lines end in other tokens", fix
    if "\ufffd" in content:
        found = f"the character U+FFFD at character {content.index(chr(0xFFFD))}"
        fix = "make the text again from its source, read in its own encoding"
        yield "D314", found, "the character that a program could not read there; kept", fix


def _control_tokens(role: object, content: str) -> Iterator[re.Match[str]]:
    """Find control tokens except those that show a picture, which are problems."""
    if "<" in content or "[/" in content or "[INST" in content:
        for token in _CONTROL_TOKEN.finditer(content):
            if role == "assistant" or not is_picture_mark(token.group()):
                yield token


def find_path_oddity(where: str, written: str) -> Problem | None:
    """Return a notice if a relative path leads out of the folder where relative paths start."""
    path = os.path.normpath(written)
    if os.path.isabs(path) or path.split(os.sep, 1)[0] != os.pardir:
        return None
    fix = "move the images below that folder, or name a folder above them as the image root"
    return _notice("D308", where, quote(written), "a path below the image root; opened nevertheless", fix)


def _notice(code: str, where: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(code, where, found, expected, fix, severity="notice")
