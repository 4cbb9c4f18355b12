from __future__ import annotations

from pathlib import Path

import pytest

import minicpmv
from minicpmv.api.run import DryRun
from minicpmv.errors import UsageError


def test_directory_that_is_no_run_s_is_refused_at_once(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "nope"):
        with pytest.raises(UsageError, match="expected the --output_dir of a run"):
            minicpmv.Run(wrong)
    with pytest.raises(UsageError, match="output: found None, expected a path"):
        minicpmv.Run(None)  # pyright: ignore[reportArgumentType]


def test_dry_run_says_what_it_is_and_offers_nothing_of_a_run(tmp_path: Path) -> None:
    run = DryRun(tmp_path / "output")
    assert (run.status, run.metrics, run.results) == ("dry run", [], {})
    assert "nothing was written" in run._repr_html_()
    for ask in (run.report, run.load, lambda: run.settings):
        with pytest.raises(UsageError, match=r"found a dry run, which wrote nothing to '\S+output', expected a run"):
            ask()
