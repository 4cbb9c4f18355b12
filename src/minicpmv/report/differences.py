"""Lists the settings of a run, and those in which several runs differ."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from minicpmv.report.run_directory import Run

__all__ = ["find_differences", "given_settings", "list_settings"]

_OF_ITS_PLACE = {"output_dir", "logging_dir", "run_name", "logging_steps", "report", "overwrite_output_dir"}
"""Settings that name runs without changing their results."""


def list_settings(run: Run) -> dict[str, str]:
    """Return every flag's resolved value, in words, sorted by name."""
    settings = {**(run.facts.get("training_arguments") or {}), **(run.facts.get("arguments") or {})}
    return {name: _write(settings[name]) for name in sorted(settings)}


def given_settings(run: Run) -> dict[str, str]:
    """Return the settings that were given on the command line."""
    try:
        words = shlex.split(str(run.facts.get("command") or ""))
    except ValueError:  # it was edited
        return {}
    named = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
    return {name: value for name, value in list_settings(run).items() if name in named}


def find_differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return what differs between runs, with the value of each; empty where a run does not state it."""
    described = [_describe(run) for run in runs]
    names = dict.fromkeys(name for each in described for name in each)
    rows = {name: [each.get(name, "") for each in described] for name in names if name not in _OF_ITS_PLACE}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _describe(run: Run) -> dict[str, str]:
    facts = run.facts
    base: Mapping[str, Any] = facts.get("base_model") or {}
    described = {"base model": base.get("path", "")}
    sources = (("data", "data"), ("validation", "eval_data"))
    described |= {label: _write_sources(facts.get(key)) for label, key in sources}
    described |= {name: str(facts.get(name, "")) for name in ("processes", "device", "commit")}
    described |= {f"version of {name}": str(value) for name, value in (facts.get("versions") or {}).items()}
    # The paths of data and model are listed above, with digests.
    skipped = {"data_path", "eval_data_path", "model_name_or_path"}
    return described | {name: value for name, value in list_settings(run).items() if name not in skipped}


def _write_sources(sources: Any) -> str:
    """Name data by path and digest: the same file may be in two places."""
    return ", ".join(
        f"{source.get('path', '')} ({str(source.get('sha256', ''))[:8]})" for source in sources or [] if source
    )


def _write(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
