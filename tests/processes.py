"""Processes that a test starts. None of them outlives it, however it ends, nor does anything that they have started."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

__all__ = ["descendants", "started", "wait_for"]

_MARK = "MINICPMV_TEST_STARTED"
"""A variable that every descendant inherits, by which it is found when its parent is gone and whatever its group is."""
_numbers = itertools.count()


@contextmanager
def started(
    words: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start a command as ``subprocess.Popen`` does; it and its descendants are killed when the block is left.

    Args:
        words: The command.
        env: As for ``Popen``; with a variable more.
        options: All others of ``Popen``.
    """
    mark = f"{os.getpid()}-{next(_numbers)}"
    with subprocess.Popen(words, env={**(os.environ if env is None else env), _MARK: mark}, **options) as process:
        try:
            yield process
        finally:
            process.kill()
            while left := _marked(mark):  # again, as one may have been started meanwhile
                for each in left:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
                time.sleep(0.02)


def descendants(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Return what runs of what a process from :func:`started` has started, also by way of a prepared Python."""
    mark = psutil.Process(process.pid).environ()[_MARK]
    return [each for each in _marked(mark) if each.pid != process.pid]


def wait_for(pattern: str, log: Path, process: subprocess.Popen[Any], *, seconds: float = 120) -> re.Match[str]:
    """Wait until a line of a log matches, which the process must live to see."""
    end = time.monotonic() + seconds
    while not (found := re.search(pattern, log.read_text(encoding="utf-8"), re.MULTILINE)):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < end, log.read_text(encoding="utf-8")
        time.sleep(0.05)
    return found


def _marked(mark: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for each in psutil.process_iter():
        try:
            if each.status() != psutil.STATUS_ZOMBIE and each.environ().get(_MARK) == mark:
                found.append(each)
        except psutil.Error:  # gone, or another user's
            continue
    return found
