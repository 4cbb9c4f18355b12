"""Makes all runs of the guides, one seed after the other, and keeps each result as soon as it is there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.guides.cases import SOURCES, all_cases
from benchmarks.guides.runs import Case, remembering, run_case
from minicpmv.demo.build import build_demo

__all__ = ["FOLDER", "SEEDS", "measure", "read_results"]

FOLDER = Path("output", "guides")
SEEDS = (42, 1, 2, 3)


def measure(*, repetitions: int) -> dict[str, Any]:
    """Make the runs that are not there yet, with one seed for each repetition; return what all gave, by table and row.

    Args:
        repetitions: Number of seeds, at most four.
    """
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    model, kept = build_demo(FOLDER / "demo").model, FOLDER / "runs.jsonl"
    files = {name: _file_of(name) for name in SOURCES}
    known = read_results(kept)
    cases = [replace(case, seed=seed) for seed in SEEDS[:repetitions] for case in all_cases()]
    with remembering():
        for number, case in enumerate(cases, start=1):
            if case.key not in known:
                known[case.key] = _run(case, model, files)
                with kept.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"key": case.key, **known[case.key]}) + "\n")
            print(f"  {number}/{len(cases)} {case.table}: {case.row}, seed {case.seed}: {known[case.key]}", flush=True)
    figures: dict[str, Any] = {}
    for case in cases:
        figures.setdefault(case.table, {}).setdefault(case.row, {})[f"seed {case.seed}"] = known[case.key]
    return figures


def _file_of(name: str) -> Path:
    """Return a source's data file, which is written behind its pictures; it is written once."""
    folder = FOLDER / "data" / name.replace(" ", "_").replace(",", "")
    return next(folder.glob("*.json"), None) or SOURCES[name](folder)


def _run(case: Case, model: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    with (
        (FOLDER / "run.log").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        return run_case(case, model=model, files=files, output=FOLDER / "run")


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Read what runs gave, by the key of their case; nothing where there is no file yet."""
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line.pop("key"): line for line in lines}
