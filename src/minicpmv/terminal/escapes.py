"""Escapes control characters, so that no name or text can drive a terminal, forge a line or reverse one.

A newline is normal in a text, but not in a name: names that contain one are remembered where they are
found, on the command line and in listed folders, and are escaped wherever they are printed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = ["escape", "guard_output", "remember_names"]

_UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""Control characters except tab and newline, other line ends, and marks that change the writing direction."""
_DIRECTION_MARKS = "\u061c\u200e\u200f"
"""Marks that are ordinary in Arabic and Hebrew texts, where they affect only their neighbours; unseen in a name."""
_UNSEEN_IN_TEXT = re.compile(f"[{_UNSEEN}]")
_UNSEEN_IN_NAME = re.compile(f"[{_UNSEEN}{_DIRECTION_MARKS}\t\n]")
_OF_A_TERMINAL = re.compile(r"\n*(\x1b\[A)+|\x1b\[[0-9;]*m")
"""Sequences that are written on their own to move a progress bar or to set a style."""

_names: dict[str, str] = {}
"""Parts of paths that hold such characters, and how they are shown."""


def escape(text: str) -> str:
    r"""Return a text with its control characters as Python would write them.

    >>> escape("a\x1b[2J\r\n")
    'a\\x1b[2J\\r\n'
    """
    for name, shown in _names.items():
        text = text.replace(name, shown)
    return _UNSEEN_IN_TEXT.sub(_written, text)


def remember_names(paths: Iterable[str]) -> None:
    """Have parts of these paths escaped wherever they are printed, if they hold control characters or newlines."""
    for path in paths:
        if _UNSEEN_IN_NAME.search(path):
            for part in path.split("/"):
                if part.strip() and _UNSEEN_IN_NAME.search(part):
                    _names[part] = _UNSEEN_IN_NAME.sub(_written, part)


@contextmanager
def guard_output(arguments: Iterable[str]) -> Iterator[None]:
    """Escape everything that is printed meanwhile, by libraries as well, and characters that the encoding lacks.

    Args:
        arguments: The command line as typed, which contains names.
    """
    with suppress(OSError):  # the directory was removed
        remember_names([os.getcwd()])
    remember_names(arguments)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Guarded(stream) for stream in streams)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Guarded:
    """Wraps a text stream and escapes what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._has_progress = stream is sys.stderr
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")

    def write(self, text: str) -> int:
        if self._is_terminal and _OF_A_TERMINAL.fullmatch(text):
            return self._stream.write(text)
        before = after = ""
        if self._has_progress:  # a bar is redrawn from the start of its line
            inner = text.lstrip("\r")
            before, inner, after = text[: len(text) - len(inner)], inner.rstrip("\r"), inner[len(inner.rstrip("\r")) :]
            text = inner
        self._stream.write(f"{before}{escape(text)}{after}")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _written(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1] if match[0] != "\x7f" else "\\x7f"
