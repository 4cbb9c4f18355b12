"""What runs were set to: all settings of one, and where several differ."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from minicpmv.report.run_directory import Run

__all__ = ["find_differences", "given_settings", "list_settings"]

_OF_ITS_PLACE = {"output_dir", "logging_dir", "run_name", "logging_steps", "report", "overwrite_output_dir"}
"""Settings that tell runs apart without making them different."""


def list_settings(run: Run) -> dict[str, str]:
    """Return every flag's value as it was settled, in words, sorted by name."""
    settings = {**(run.facts.get("training_arguments") or {}), **(run.facts.get("arguments") or {})}
    return {name: _write(settings[name]) for name in sorted(settings)}


def given_settings(run: Run) -> dict[str, str]:
    """Return those of them that stand on the command line."""
    try:
        words = shlex.split(str(run.facts.get("command") or ""))
    except ValueError:  # somebody has edited it
        return {}
    named = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
    return {name: value for name, value in list_settings(run).items() if name in named}


def find_differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return what is not the same in all runs, with the value of each; empty where a run does not say."""
    described = [_describe(run) for run in runs]
    names = dict.fromkeys(name for each in described for name in each)
    rows = {name: [each.get(name, "") for each in described] for name in names if name not in _OF_ITS_PLACE}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _describe(run: Run) -> dict[str, str]:
    facts = run.facts
    base: Mapping[str, Any] = facts.get("base_model") or {}
    described = {"base model": base.get("path", "")}
    described |= {label: _write_sources(facts.get(key)) for label, key in (("data", "data"), ("held-out", "eval_data"))}
    described |= {name: str(facts.get(name, "")) for name in ("processes", "device", "commit")}
    described |= {f"version of {name}": str(value) for name, value in (facts.get("versions") or {}).items()}
    # Paths of data and model stand above, with what they hold.
    skipped = {"data_path", "eval_data_path", "model_name_or_path"}
    return described | {name: value for name, value in list_settings(run).items() if name not in skipped}


def _write_sources(sources: Any) -> str:
    """Name data by what they hold: the same file may lie in two places."""
    return ", ".join(
        f"{source.get('path', '')} ({str(source.get('sha256', ''))[:8]})" for source in sources or [] if source
    )


def _write(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
