"""Offers what a run has left in its directory: numbers, files and the trained model."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.api.paths import path_of
from minicpmv.errors import UsageError
from minicpmv.report.run_directory import read_run
from minicpmv.report.writing import write_report

if TYPE_CHECKING:
    from minicpmv.api.model import Model

__all__ = ["DryRun", "Run"]


class Run:
    """A run, finished or not; everything is read from its directory when it is asked for.

    Args:
        output: The run's directory.

    Raises:
        UsageError: The directory is no run's.
    """

    def __init__(self, output: str | os.PathLike[str]) -> None:
        self.output = Path(path_of(output, "output"))
        """The directory, which holds the trained model or adapter."""
        read_run(self.output)

    @property
    def status(self) -> str:
        """``finished``, ``stopped``, ``running``, ``killed``, or what went wrong; ``unknown`` before its first step.

        ``ended`` is a run that an error ended. A run on another machine is ``running`` also if it was killed there.
        """
        return read_run(self.output).status

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The log: a dict of numbers for each logged step and evaluation, as ``loss`` by ``step``.

        ``pandas.DataFrame(run.metrics)`` makes a table of it.
        """
        return [dict(entry) for entry in read_run(self.output).log]

    @property
    def results(self) -> Mapping[str, Any]:
        """The numbers at the end, such as ``last_epoch_loss`` and ``eval_loss``; empty before it."""
        return dict(read_run(self.output).facts.get("metrics") or {})

    @property
    def settings(self) -> Path:
        """The ``run.yaml`` that repeats the run."""
        return self.output / "run.yaml"

    def report(self) -> Path:
        """Write the page of the run again, with ``loss.png`` beside it, and return it."""
        return write_report([str(self.output)]).page

    def load(self, **settings: Any) -> Model:
        """Load the trained model; as :func:`minicpmv.load`."""
        from minicpmv.api.model import load  # here: it needs torch

        return load(self.output, **settings)

    def __repr__(self) -> str:
        return f"Run({str(self.output)!r})"

    def _repr_html_(self) -> str:
        """Show the run in a notebook: its status, last numbers and loss."""
        run = read_run(self.output)
        numbers = {"status": self.status, "steps": run.last_step}
        numbers |= {name: f"{value:.4g}" for name in ("loss", "eval_loss") if (value := run.last(name)) is not None}
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(str(each))}</td></tr>" for name, each in numbers.items())
        picture = self.output / "loss.png"
        drawn = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else ""
        image = f'<img alt="loss by step" width="480" src="data:image/png;base64,{drawn}">' if drawn else ""
        page = self.output / "report.html"
        more = f"<p>{html.escape(str(page))}</p>" if page.is_file() else ""
        return f"<p><b>{html.escape(str(self.output))}</b></p><table>{rows}</table>{image}{more}"


class DryRun(Run):
    """A dry run, from ``minicpmv.train(..., dry_run=True)``: all checks passed, and nothing was written.

    Its status is ``dry run``; it has no metrics and no results. All else of a run is refused.

    Args:
        output: The directory that the run would have. It may be missing, or hold an earlier run, which is left alone.
    """

    def __init__(self, output: str | os.PathLike[str]) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.output = Path(output)

    @property
    def status(self) -> str:
        """``dry run``."""
        return "dry run"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    @property
    def results(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    @property
    def settings(self) -> Path:
        """Refused.

        Raises:
            UsageError: Always.
        """
        raise self._nothing("settings")

    def report(self) -> Path:
        """Refused, as :attr:`settings`."""
        raise self._nothing("report()")

    def load(self, **settings: Any) -> Model:
        """Refused, as :attr:`settings`."""
        raise self._nothing("load()")

    def __repr__(self) -> str:
        return f"DryRun({str(self.output)!r})"

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(str(self.output))}</b>: dry run, all checks passed, nothing was written</p>"

    def _nothing(self, asked: str) -> UsageError:
        return UsageError(
            f"{asked}: found a dry run, which wrote nothing to {str(self.output)!r}, expected a run\n"
            "  fix: call minicpmv.train without dry_run"
        )
