"""Makes checkpoints complete or absent: they are written aside, synced, then renamed into place.

A directory ``checkpoint-N`` appears in one step, with its manifest, so a run killed at any moment leaves nothing that
could be mistaken for a checkpoint. The trainer decides what the files hold.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from minicpmv.files.atomic_files import STAGING
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.manifest import find_fault, sync

__all__ = [
    "publish",
    "remove_checkpoints",
    "remove_stale",
    "rotate",
]


def remove_stale(output_dir: str | os.PathLike[str]) -> list[str]:
    """Delete the directories that a killed run was writing or deleting; return their names."""
    staging = Path(output_dir) / STAGING
    if not staging.is_dir():
        return []
    names = sorted(path.name for path in staging.iterdir())
    shutil.rmtree(staging, ignore_errors=True)  # on a shared disk another machine may do the same
    return names


def publish(staged: Path, final: Path) -> None:
    """Rename a sealed checkpoint into place. It replaces one of the same step from before a resume."""
    if final.exists():
        _set_aside(final)
    os.replace(staged, final)
    sync(final.parent)


def rotate(output_dir: str | os.PathLike[str], *, limit: int | None, keep: Iterable[str | None]) -> list[str]:
    """Delete the oldest checkpoints beyond ``limit``; never one in ``keep``, and never the last complete one.

    Args:
        output_dir: The run's directory.
        limit: How many to keep; None or 0 keeps all.
        keep: Paths to keep: the checkpoint just written and the best one.
    """
    if not limit or limit < 0:
        return []
    protected = {Path(path).name for path in keep if path}
    checkpoints = list_checkpoints(output_dir)
    if not any(path.name in protected and find_fault(path) is None for path in checkpoints):
        return []
    surplus = len(checkpoints) - max(limit, len(protected))
    removed = [path for path in checkpoints if path.name not in protected][: max(surplus, 0)]
    for path in removed:
        _set_aside(path)
    return [path.name for path in removed]


def remove_checkpoints(output_dir: str | os.PathLike[str]) -> list[str]:
    """Delete all checkpoints; return their names."""
    removed = list_checkpoints(output_dir)
    for path in removed:
        _set_aside(path)
    return [path.name for path in removed]


def _set_aside(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves no partial one under its name."""
    staging = checkpoint.parent / STAGING
    staging.mkdir(exist_ok=True)
    aside = staging / f"old-{checkpoint.name}"
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(FileNotFoundError):  # on a shared disk another machine may have been faster
        os.replace(checkpoint, aside)
    shutil.rmtree(aside, ignore_errors=True)
