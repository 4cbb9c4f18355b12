"""Offers what a run has left in its directory: numbers, files and the trained model."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.report.run_directory import read_run
from minicpmv.report.writing import write_report

if TYPE_CHECKING:
    from minicpmv.api.model import Model

__all__ = ["Run"]


class Run:
    """A run, finished or not; everything is read from its directory when it is asked for.

    Args:
        output: The run's directory.
    """

    def __init__(self, output: str | os.PathLike[str]) -> None:
        self.output = Path(output)
        """The directory, which holds the trained model or adapter."""

    @property
    def status(self) -> str:
        """``finished``, ``stopped``, ``running`` or what went wrong; ``unknown`` before its first step."""
        return str(read_run(self.output).facts.get("status", "unknown"))

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
        """Write the page of the run again, with ``loss.png`` beside it, and return it.

        Raises:
            UsageError: The directory is no run's.
        """
        return write_report([str(self.output)]).page

    def load(self, **settings: Any) -> Model:
        """Load the trained model; as :func:`minicpmv.load`."""
        from minicpmv.api.model import load  # here: it needs torch

        return load(self.output, **settings)

    def __repr__(self) -> str:
        return f"Run({str(self.output)!r})"

    def _repr_html_(self) -> str:
        """Show the run in a notebook: its status, last numbers and loss."""
        if not self.output.is_dir():  # such as after a dry run
            return html.escape(repr(self))
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
