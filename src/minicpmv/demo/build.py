"""Unpack the demo: the base model's directory and the digits as picture files with their JSON files.

Copies and draws only: it needs neither torch nor transformers, so that ``minicpmv demo`` takes about a second.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from minicpmv.demo.data import write_split
from minicpmv.demo.sheets import ASSETS
from minicpmv.errors import UsageError

__all__ = ["DemoPaths", "build_demo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPaths:
    """Where the parts of a built demo lie."""

    model: Path
    """A MiniCPM-V 2.6 directory in the released layout."""
    train: Path
    validation: Path
    """For choosing settings."""
    heldout: Path
    """For reporting, once."""


def build_demo(output: str | Path) -> DemoPaths:
    """Write the demo under ``output`` and return its paths. What an earlier call wrote there is written anew.

    Raises:
        UsageError: ``output`` is a file, or cannot be written to.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: found {str(folder)!r}, a file; expected a directory\n  fix: name another place")
    try:
        model = folder / "model"
        model.mkdir(parents=True, exist_ok=True)
        for file in sorted((ASSETS / "base").iterdir()):
            shutil.copyfile(file, model / file.name)  # not its mode: an installed package may be read-only
        return DemoPaths(
            model=model,
            train=write_split(folder, "train"),
            validation=write_split(folder, "validation"),
            heldout=write_split(folder, "heldout"),
        )
    except OSError as error:
        raise UsageError(
            f"--output: cannot write {error.filename or str(folder)!r} ({error.strerror})\n"
            "  fix: name a directory on a disk with 10 MB left that you may write to"
        ) from error
