"""Reads lines that are typed or piped in, with history, completion and bold where a terminal supports them."""

from __future__ import annotations

import glob
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

try:
    import readline
except ImportError:  # a Python that was built without readline
    readline: Any = None

__all__ = ["Terminal", "catch_interrupt"]

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Terminal:
    """Reads and writes a dialogue, on a terminal or through pipes.

    Args:
        commands: Commands that a line may begin with.
        file_commands: Those that take the path of a file.
    """

    def __init__(self, commands: Sequence[str], file_commands: Sequence[str]) -> None:
        self.is_interactive = sys.stdin.isatty()
        self._is_styled = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._commands, self._file_commands = commands, file_commands
        self._matches: list[str] = []
        if self.is_interactive and readline is not None:
            readline.set_completer_delims("\n")  # a completion replaces the whole line: paths may contain spaces
            readline.set_completer(self._complete)
            readline.parse_and_bind("tab: complete")

    def read(self) -> str:
        """Return the next line, joined with the following ones while it ends with a backslash.

        Raises:
            EOFError: There are no more lines.
        """
        lines = [self._read_line("\nyou: ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(self._read_line("...: "))
        return "\n".join(lines)

    def note(self, text: str) -> None:
        """Print a note that is not an answer, only on a terminal."""
        if self.is_interactive:
            start, end = (_DIM, _PLAIN) if self._is_styled else ("", "")
            print(start, text, end, sep="", flush=True)  # separate arguments: sequences inside a text would be escaped

    def _read_line(self, prompt: str) -> str:
        if not self.is_interactive:
            return input()
        if self._is_styled and readline is not None:
            # \x01 and \x02 enclose characters without width, or readline would count them.
            start = "\n" if prompt.startswith("\n") else ""
            prompt = f"{start}\x01{_BOLD}\x02{prompt.strip()}\x01{_PLAIN}\x02 "
        return input(prompt)

    def _complete(self, line: str, state: int) -> str | None:
        if state == 0:
            self._matches = list(self._find_matches(line))
        return self._matches[state] if state < len(self._matches) else None

    def _find_matches(self, line: str) -> Iterator[str]:
        command, space, path = line.partition(" ")
        if not space:
            yield from (name for name in self._commands if line and name.startswith(line))
        elif command in self._file_commands:
            for found in sorted(glob.glob(f"{glob.escape(os.path.expanduser(path))}*")):
                yield f"{command} {found}{'/' if os.path.isdir(found) else ''}"


@contextmanager
def catch_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; a second Ctrl-C ends the command as usual."""
    is_stopped = threading.Event()

    def remember(*_: object) -> None:
        if is_stopped.is_set():
            raise KeyboardInterrupt
        is_stopped.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield is_stopped.is_set
    finally:
        signal.signal(signal.SIGINT, before)
