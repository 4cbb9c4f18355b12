"""Keeps the mode in which a checkpoint shrinks pictures (4.6 and later) the same wherever the checkpoint is used.

A mode can be chosen that the base's files do not state. Whatever is saved states it in both files that do, and an
adapter beside its base's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import write_json
from minicpmv.releases.table import Version

__all__ = ["mode_in", "mode_options", "refuse_unknown_mode", "state_downsample_mode"]

_FILES = ("config.json", "preprocessor_config.json")


def mode_options(mode: str | None) -> dict[str, str]:
    """Return the option of ``from_pretrained``, of models and processors, that chooses a mode; none for None."""
    return {} if mode is None else {"downsample_mode": mode}


def mode_in(config: Mapping[str, Any], version: Version) -> str | None:
    """Return the mode that a ``config.json`` means; None for a release without a choice."""
    modes = version.reading.downsample_modes
    own = next((mode for mode, side in modes.items() if side == version.reading.token_side), None)
    return (config.get("downsample_mode") or own) if modes else None


def refuse_unknown_mode(mode: str | None, version: Version, *, asked_by: str) -> None:
    """Make sure that a release has the mode that a user chooses.

    Args:
        mode: As given; None was not.
        version: The release.
        asked_by: The name of the setting.

    Raises:
        UsageError: It has not.
    """
    modes = version.reading.downsample_modes
    if mode is None or mode in modes:
        return
    if not modes:
        raise UsageError(
            f"{asked_by}: found {mode!r}, expected nothing: {version.model} shrinks pictures in one way\n"
            f"  fix: leave {asked_by} out"
        )
    raise UsageError(
        f"{asked_by}: found {mode!r}, expected {' or '.join(modes)} for {version.model}\n  fix: choose one of them"
    )


def state_downsample_mode(directory: Path, mode: str | None) -> None:
    """Write a mode into the files of a saved checkpoint that state one, unless they do already.

    Args:
        directory: The checkpoint's.
        mode: In which it was trained; None for a release without a choice.
    """
    if mode is None:
        return
    for name in _FILES:
        file = directory / name
        stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if stated is not None and stated.get("downsample_mode") != mode:
            write_json(file, stated | {"downsample_mode": mode})
