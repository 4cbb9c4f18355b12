"""Runs the stages within their time, in a worker that may crash or hang: another one then goes on behind that case.

The worker is one process for all stages, because importing everything and starting CUDA take seconds. Nothing here
imports torch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.lines import Lines
from benchmarks.gpu.stages import Stage
from benchmarks.gpu.watched import Worker

__all__ = ["CannotMeasure", "Plan", "run_stages"]

_TABLE_MINUTES = 10
"""What the seconds in the table of stages add up to, about; whoever gives more time gives each stage more."""
_TO_START = 180.0
"""Seconds. What importing torch may take on a machine that has just started."""


class Plan(NamedTuple):
    """What shall run, and how long."""

    stages: Mapping[str, Stage]
    minutes: float
    is_small: bool
    words: Sequence[str]
    """Arguments of every worker."""


class CannotMeasure(Exception):
    """Says why nothing can be measured here, and how to mend it."""


def run_stages(plan: Plan, lines: Lines) -> None:
    """Run the stages for which there is time; what is left out is a line of its own.

    Raises:
        CannotMeasure: There is no GPU, or no worker starts.
    """
    until = time.monotonic() + plan.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(plan, lines, Path(folder))
        try:
            for name, stage in plan.stages.items():
                left = until - time.monotonic()
                if left < stage.seconds:
                    reason = f"it needs about {stage.seconds:.0f} s, and {max(left, 0):.0f} s are left"
                    lines.write({"stage": name, "left_out": reason})
                    continue
                run.start()  # of which the time is nobody's
                seconds = 2 * stage.seconds * max(1.0, plan.minutes / _TABLE_MINUTES)
                run.stage(name, until=min(time.monotonic() + seconds, until))
        finally:
            run.end()


class _Run:
    """Has one worker at a time."""

    def __init__(self, plan: Plan, lines: Lines, folder: Path) -> None:
        self._plan, self._lines, self._folder = plan, lines, folder
        self._worker: Worker | None = None

    def start(self) -> Worker:
        """Return the worker, a new one if there is none.

        Raises:
            CannotMeasure: It does not start, or finds no GPU.
        """
        if self._worker is not None:
            return self._worker
        self._worker = Worker([*self._plan.words, "--folder", str(self._folder)], self._folder / "worker.log")
        try:
            ready = self._worker.next_event(time.monotonic() + _TO_START)
        except TimeoutError:
            ready = None
        if ready is None:
            raise CannotMeasure("\n".join(["the process that measures: it does not start", *self.end()]))
        if ready["ready"] == "cpu" and not self._plan.is_small:
            raise CannotMeasure(
                "torch: found no GPU that it can use, expected one\n"
                "  fix: install a torch for this driver (nvidia-smi names it), or try the command with --small"
            )
        self._lines.facts["device"] = ready["device"]
        return self._worker

    def stage(self, name: str, *, until: float) -> None:
        """Write down what a stage finds, until it ends or its time is over."""
        head: dict[str, Any] = {"stage": name}
        while time.monotonic() < until:
            worker = self.start()
            worker.ask({"stage": name, "after": head.get("case")})
            try:
                while (event := worker.next_event(until)) is not None and "ends" not in event:
                    if "begins" in event:
                        head = event["begins"]
                    else:
                        self._lines.write(event)
                if event is not None:
                    return
                failed = "its process ended"
            except TimeoutError:
                failed = "the time of its stage was over"
            self._lines.write({**head, "failed": failed, "last_lines": self.end()})
            if "case" not in head:
                return
        self._lines.write({"stage": name, "left_out": f"all that would come after {head.get('case')!r}: no time left"})

    def end(self) -> list[str]:
        """End the worker, if there is one; return what it printed last, and how it ended."""
        if self._worker is None:
            return []
        ended, self._worker = self._worker.end(), None
        return [*ended.last_lines, f"exit code {ended.code}"]
