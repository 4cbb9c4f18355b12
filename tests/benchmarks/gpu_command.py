"""The command ``python -m benchmarks.gpu`` in its small sizes, started, watched and read as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import read_lines
from tests.processes import started

ROOT = Path(__file__).parents[2]


def start(
    output: Path, *words: str, root: Path = ROOT, small: bool = True
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start it from a checkout, in a time that a loaded machine keeps as well."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes", "60", "--output", str(output), *words]
    command += ["--small"] if small else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return started(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(output: Path, *words: str, root: Path = ROOT, small: bool = True) -> tuple[int, str]:
    """Run it to its end; return the exit code and what it printed."""
    with start(output, *words, root=root, small=small) as process:
        printed = process.communicate(timeout=1500)[0]
    return process.returncode, printed


def of_stage(lines: Sequence[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["stage"] == stage]


def read(output: Path) -> list[dict[str, Any]]:
    return list(read_lines(output))
