"""Unpacks the demo: the base model's directory, and the digits, or the drawn films, with their JSON files.

It only copies and draws, and needs neither torch nor transformers, so that ``minicpmv demo`` takes about a second.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from PIL import Image

from minicpmv.demo.data import Split, write_split
from minicpmv.demo.films import write_films
from minicpmv.demo.sheets import ASSETS
from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import staging
from minicpmv.files.places import check_directory
from minicpmv.terminal.streams import advise
from minicpmv.wording import name_few

__all__ = ["DemoPaths", "build_demo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPaths:
    """Names the parts of a built demo."""

    model: Path
    """Model directory of a MiniCPM-V 2.6 in the released layout."""
    train: Path
    validation: Path
    """Records for choosing settings."""
    heldout: Path
    """Records for reporting, once."""


def build_demo(output: str | Path, *, films: bool = False) -> DemoPaths:
    """Write the demo under ``output`` and return its paths. Existing parts of it are kept and completed.

    Everything is written to a temporary place first, so a killed process leaves nothing under the demo's names.

    Args:
        output: The directory.
        films: Whether its task is the one on films, which takes half a minute to draw.

    Raises:
        UsageError: Another file has one of the demo's names, or ``output`` cannot be written to.
        FilmError: PyAV, which encodes films, is not installed.
    """
    folder = Path(output)
    check_directory(folder, asked_by="--output")
    place = folder.resolve()
    is_new = not place.exists()
    # Next to a new folder, to be renamed as a whole; inside an existing one, which may be a disk of its own.
    staged = place.with_name(f".{place.name}.partial") if is_new else place / ".demo.partial"
    try:
        staged.parent.mkdir(parents=True, exist_ok=True)
        with staging(staged):
            _write(staged, write_films if films else write_split)
            if is_new:
                os.replace(staged, place)
            else:
                _refuse_others(staged, place)
                _move_missing(staged, place)
    except OSError as error:
        fix = advise(error, otherwise="name a directory on a disk with 10 MB left that you may write to")
        raise UsageError(
            f"--output {str(folder)!r}: found {error.strerror}, expected to write the demo there\n  fix: {fix}"
        ) from error
    return DemoPaths(
        model=folder / "model",
        train=folder / "train.json",
        validation=folder / "validation.json",
        heldout=folder / "heldout.json",
    )


def _write(folder: Path, write: Callable[[Path, Split], object]) -> None:
    model = folder / "model"
    model.mkdir()
    for file in sorted((ASSETS / "base").iterdir()):
        shutil.copyfile(file, model / file.name)  # not its mode: an installed package may be read-only
    for split in get_args(Split):
        write(folder, split)


def _refuse_others(staged: Path, place: Path) -> None:
    """Make sure that files with the demo's names are the demo's: no user's file is replaced."""
    names = [path.relative_to(staged) for path in sorted(staged.rglob("*"))]
    others = [
        str(name) for name in names if os.path.lexists(place / name) and not _is_same(staged / name, place / name)
    ]
    if others:
        raise UsageError(
            f"--output {str(place)!r}: found {name_few(map(repr, others), most=3)}, not as the demo would "
            "write it, expected nothing that would be replaced\n  fix: name another directory, or move these files away"
        )


def _is_same(made: Path, there: Path) -> bool:
    if made.is_dir() or not there.is_file():
        return made.is_dir() and there.is_dir()
    if made.read_bytes() == there.read_bytes():
        return True
    if made.suffix != ".png":
        return False
    try:  # another release of Pillow or zlib compresses the same picture differently
        with Image.open(made) as one, Image.open(there) as other:
            return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()
    except (OSError, SyntaxError, ValueError):  # not a picture
        return False


def _move_missing(staged: Path, place: Path) -> None:
    """Move the missing files, and missing folders as a whole."""
    for path in sorted(staged.iterdir()):
        target = place / path.name
        if not target.exists():
            os.replace(path, target)
        elif path.is_dir():
            _move_missing(path, target)
