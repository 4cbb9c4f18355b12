"""Starts the process in which cases are walked: one for many of them, since torch takes long to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.gpu_walk.cases import DEFAULT
from tests.gpu_walk.report import Case, Report, read_report

__all__ = ["Start", "Walks", "start_beside"]

Start = Callable[..., str]
"""Starts a module of this folder, by its name and with arguments, and returns what it prints."""

_ROOT = Path(__file__).parents[2]


def start_beside(library: Path, name: str, *arguments: str | Path) -> str:
    """Start a module of this folder beside the fake device, and return what it prints."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.gpu_walk.{name}", *map(str, arguments)]
    # Preloaded, because torch looks for hooks once; and without the GPU that may really be there.
    settings = os.environ | {"LD_PRELOAD": str(library), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=_ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Walks:
    """Reports of the cases that were chosen, walked when the first of a group is asked for.

    Args:
        start: Starts a process.
        chosen: Cases of this session.
        new_folder: Makes an empty folder, by a name.
    """

    def __init__(self, start: Start, chosen: Sequence[Case], new_folder: Callable[[str], Path]) -> None:
        self._start = start
        self._chosen = chosen
        self._new_folder = new_folder
        self._reports: dict[Case, Report] = {}

    def of(self, case: Case) -> Report:
        """Return a case's report."""
        if case not in self._reports:
            group = [each for each in self._chosen if _group(each) == _group(case)]
            arguments = [json.dumps(asdict(each)) for each in group]
            printed = self._start("walk_cases", self._new_folder("walk"), *arguments)
            reports = [read_report(line) for line in printed.splitlines() if line.startswith("{")]
            self._reports |= {report.case: report for report in reports}
        return self._reports[case]


def _group(case: Case) -> str:
    return "faulty" if case.fault else "default" if case in DEFAULT else case.release
