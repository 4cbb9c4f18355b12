"""A worker as a process that is watched: it is asked, tells, and may end in any way at any time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Ended", "Worker"]

_ROOT = Path(__file__).parents[2]
_SHOWN = 20
"""Lines of what a worker printed last."""


class Ended(NamedTuple):
    """How a worker ended."""

    code: int
    """Negative for a signal."""
    last_lines: list[str]


class Worker:
    """One process that measures, with the pipe on which it tells of it.

    Args:
        words: Its arguments.
        log: Gets what it and its libraries print.
    """

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._log = log
        self._received = b""
        self._events, sends = os.pipe()
        paths = [str(_ROOT / "src"), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("wb") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.worker", "--events", str(sends), *words],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
                pass_fds=[sends],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # so that it is ended together with all that it starts
            )
        os.close(sends)

    def ask(self, request: Mapping[str, Any]) -> None:
        """Ask for a stage."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its events tell
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def next_event(self, until: float) -> dict[str, Any] | None:
        """Wait for what it tells next.

        Args:
            until: By ``time.monotonic``.

        Returns:
            The event; None if it has ended.

        Raises:
            TimeoutError: It has told nothing until then.
        """
        while b"\n" not in self._received:
            if not select.select([self._events], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError
            piece = os.read(self._events, 65536)
            if not piece:
                return None
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def end(self) -> Ended:
        """End it and all that it has started, if it has not ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)  # the pipe of one that fails ends a moment before it does
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._events)
        printed = self._log.read_text(encoding="utf-8", errors="replace")
        return Ended(code, printed.splitlines()[-_SHOWN:])
