"""The file of results: one line of JSON for each finding, on the disk before the next thing is measured.

A line says by itself where and when it was found: ``date``, ``device``, ``driver``, ``versions``. ``stage`` and
``case`` say what was looked at, and then one of these is there: numbers, with ``holds`` where something was expected of
them; ``failed`` and ``last_lines``; ``left_out`` with the reason.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

__all__ = ["Lines", "read_lines"]

_WIDEST = 400
"""Characters of a line on the terminal."""


class Lines:
    """Writes findings to the file, and tells them on the terminal.

    Args:
        path: Gets more lines; what is there stays.
        facts: What every line says; may be changed.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path = path
        self.facts = dict(facts)
        self._started = time.monotonic()
        self.written: list[dict[str, Any]] = []

    def write(self, finding: Mapping[str, Any]) -> None:
        """Add a finding; it is on the disk when this returns."""
        at = round(time.monotonic() - self._started, 1)
        line = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **self.facts, "at_seconds": at}
        text = json.dumps({**line, **finding}, default=str)
        with self._path.open("a", encoding="utf-8") as file:
            if _is_torn(self._path):
                file.write("\n")
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.written.append(dict(finding))
        print(f"[{at:5.0f} s] {_tell(finding)}", flush=True)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a file; one that was torn by a crash is passed over."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            yield line


def _is_torn(path: Path) -> bool:
    """Whether the last line has no end, as after a crash of the machine."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _tell(finding: Mapping[str, Any]) -> str:
    left = dict(finding)
    what = "/".join(str(left.pop(name)) for name in ("stage", "case") if left.get(name))
    if "failed" in left:
        return "\n".join([f"{what}: FAILED: {left['failed']}", *(f"    {line}" for line in left["last_lines"])])
    if "left_out" in left:
        return f"{what}: left out: {left['left_out']}"
    expected = left.pop("expected", "")
    holds = {True: "holds, ", False: f"DOES NOT HOLD, expected {expected}: ", None: ""}[left.pop("holds", None)]
    told = ", ".join(f"{name} {_short(value)}" for name, value in left.items())
    return f"{what}: {holds}{told}"[:_WIDEST]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)
