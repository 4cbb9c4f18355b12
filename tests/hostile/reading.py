"""Has directories read by a process that may be ended: what it says of each, or that it hung or died."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from pathlib import Path

from tests.tiny import FIXTURES

__all__ = ["Readers"]

_ROOT = FIXTURES.parents[1]


class Readers:
    """One process at a time, started again after one that hung or died.

    Args:
        seconds: That a directory may take.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, folder: Path) -> dict[str, str]:
        """Return for each reader ``read``, ``named: ...`` or ``raised: ...``; or how the process ended."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{folder}\n".encode())
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            is_answered = bool(selector.select(self._seconds))
        line = process.stdout.readline() if is_answered else b""
        if line:
            return json.loads(line)
        self.close()
        return {"process": f"ended with {process.returncode}" if is_answered else f"hung for {self._seconds} s"}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.reader"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(["src", *sys.path]), "HF_HUB_OFFLINE": "1"},
            )
            # The first answer waits for the imports.
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(b"/nowhere\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline(), "the reader does not start"
        return self._process


def bad_ends(ends: dict[str, str]) -> dict[str, str]:
    """Return the ends that none may have, among those that ``Readers.read`` returned."""
    return {
        name: end
        for name, end in ends.items()
        if end != "read" and not (end.startswith("named: ") and "fix: " in end and ": found " in end)
    }
