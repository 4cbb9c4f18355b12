"""What a stage consists of, and what it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minicpmv.devices.inspection import look_at
from minicpmv.machine.kernels import attention_kernel
from minicpmv.machine.precision import precision_of

__all__ = ["ROOT", "Case", "CommandFailed", "Finding", "LeftOut", "Setting", "bounded", "run_python"]

ROOT = Path(__file__).parents[2]
"""The checkout."""

Finding = dict[str, Any]


class Case(NamedTuple):
    """One thing to look at. Each finding is written down before the next is looked for."""

    name: str
    measure: Callable[[], Iterator[Finding]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all stages are told."""

    device: torch.device
    is_small: bool
    """Sizes for a CPU, to try the stages."""
    release: str
    """Whose size ``real_size`` has."""
    folder: Path
    """For files that nobody needs afterwards."""
    output: Path
    """The file of results."""
    traces: Path | None
    """Where profiles are kept."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def has_kernel(self) -> bool:
        """Whether the card is one that the variable-length kernel is meant for."""
        return self.is_cuda and attention_kernel(look_at(self.device)).value == "variable-length"

    @property
    def half(self) -> str:
        """The half precision that a run takes here, as a flag: ``--bf16``, or ``--fp16`` on cards before Ampere."""
        return f"--{precision_of(look_at(self.device)).value}" if self.is_cuda else "--bf16"

    def wait(self) -> None:
        """Let the device end what it was given."""
        if self.is_cuda:
            torch.cuda.synchronize()


class LeftOut(Exception):
    """Says why a stage or a case cannot run here, which is no fault."""


class CommandFailed(Exception):
    """A command ended with a fault.

    Args:
        found: How it ended.
        last_lines: Of what it printed.
    """

    def __init__(self, found: str, last_lines: Sequence[str]) -> None:
        super().__init__(found)
        self.last_lines = list(last_lines)


def bounded(value: float, *, most: float) -> Finding:
    """Say whether a value is as small as it should be; one that is no number is not."""
    return {"holds": value <= most, "expected": f"at most {most:g}"}


def run_python(words: Sequence[str | Path], *, seconds: float, variables: Mapping[str, str] | None = None) -> list[str]:
    """Run Python with these arguments in a process of its own; return the lines that it printed.

    Args:
        words: As typed after ``python``.
        seconds: After which it is ended.
        variables: Of the environment, beside those of this process.

    Raises:
        CommandFailed: It ended with another code than 0, or took too long.
    """
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(variables or {})}
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            printed = process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            process.terminate()  # not killed at once: a launcher ends its own processes first
            try:
                printed = process.communicate(timeout=10)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                printed = process.communicate()[0]
            raise CommandFailed(f"still ran after {seconds:g} s", printed.splitlines()) from None
    lines = printed.splitlines()
    if process.returncode:
        raise CommandFailed(f"ended with {process.returncode}", lines)
    return lines
