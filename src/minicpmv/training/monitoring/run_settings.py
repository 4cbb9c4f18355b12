"""Writes the ``run.yaml`` of a run: the settings that were given, from which ``minicpmv train`` repeats the run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from minicpmv.files.atomic_files import write_whole
from minicpmv.machine.system import num_launched
from minicpmv.report.run_directory import SETTINGS
from minicpmv.terminal.redaction import clean_settings
from minicpmv.training.flags.arguments import Request
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings

__all__ = ["is_own", "write_run_settings"]

_MARK = "# Written by a run, which this file repeats:"
_OF_ONE_START = ("dry_run", "local_rank", "num_processes", "overwrite_output_dir")
"""Settings that say how a run was started, not what it computes."""
_PATHS = ("cache_dir", "data_cache", "image_root", "logging_dir", "lora_weight_path", "reference_cache", "vision_cache")
_MAY_BE_FILES = ("accelerator_config", "deepspeed", "fsdp_config", "model_name_or_path", "resume_from_checkpoint")
"""Settings that name a file, or something else, such as a preset or a name on the hub."""


def is_own(file: Path) -> bool:
    """Return whether a run wrote a file, or it does not exist; a user's own must not be replaced."""
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            return text.readline().rstrip("\n") == _MARK
    except OSError:  # none, or a folder, which is refused by name
        return True


def write_run_settings(
    request: Request, directory: Path, *, num_processes: int, own_objective: str | None = None
) -> None:
    """Write the file, with absolute paths and without secrets.

    Every setting that was given is written, also where it has its default: whether one was given counts, such as for
    ``--lora_dropout``. What was left to the machine is left to it again, but for the number of processes.

    Args:
        request: The command line.
        directory: The run's.
        num_processes: Of the run, on all machines.
        own_objective: Name of an objective of one's own, which no file can give: `--objective` refuses it, so that no
            other loss is trained in its place.
    """
    directory, settings = directory.absolute(), dict(_settings(request))
    lines = [
        _MARK,
        f"#   {shlex.join(['minicpmv', 'train', str(directory / SETTINGS), '--output', f'{directory}-again'])}",
        "# Flags behind the file win over it. Relative paths would start where the command runs; these are absolute.",
    ]
    if own_objective is not None:
        settings["objective"] = own_objective
        lines.append(
            "# Its objective is a class of Python: give that to train(), and remove the line of `objective` here."
        )
    lines += [f"# {name} is not written: it is a secret" for name in settings if _is_secret(name, settings[name])]
    local = num_launched("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else num_processes
    if num_processes > local:
        lines.append(f"# It ran as {num_processes} processes on several machines, started by a launcher on each.")
    elif num_processes > 1 or "num_processes" in request.values:
        settings["num_processes"] = num_processes
    written = {name: value for name, value in settings.items() if not _is_secret(name, value)}
    text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=2**20)
    write_whole(directory / SETTINGS, "\n".join([*lines, "", text]))


def _settings(request: Request) -> Iterator[tuple[str, Any]]:
    """Yield what a file has to say, under the short names where there are any: model, data and output first."""
    short = {name: other for other, name in OTHER_NAMES.items()}
    values = request.values
    for name in (*OTHER_NAMES.values(), *(each for each in all_settings() if each not in short)):
        value = values.get(name)
        is_resumed = name == "resume_from_checkpoint" and str(value).lower() == "true"
        if name not in values or name in _OF_ONE_START or value in ([], "") or is_resumed:
            continue
        yield short.get(name, name), _located(request, name, value)


def _located(request: Request, name: str, value: Any) -> Any:
    """Return a value whose paths are absolute."""
    if name == "data_path":
        sources = request.run.train_sources
        return [os.path.abspath(each.path) + ("" if each.weight == 1 else f":{each.weight:g}") for each in sources]
    if name == "eval_data_path":
        sets = request.run.eval_sources
        named = [(name, each) for name, sources in sets.items() for each in sources]
        return [f"{name}={os.path.abspath(each.path)}" if name else os.path.abspath(each.path) for name, each in named]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1.0 steps would be refused: a share of the run may have been meant
    if not isinstance(value, str):
        return value
    is_path = name in (*_PATHS, "output_dir") and value.lower() not in ("true", "false")
    is_path = is_path or (name in _MAY_BE_FILES and os.path.exists(value))
    return os.path.abspath(os.path.expanduser(value)) if is_path else value


def _is_secret(name: str, value: Any) -> bool:
    return clean_settings({name: value}) != {name: value}
