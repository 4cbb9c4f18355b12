"""Training checkpoints that are whole or absent: written aside, synced, then renamed into place.

A directory ``checkpoint-N`` appears in one step, with a list of its files and their sizes, so a run killed at any
moment leaves nothing to mistake for a checkpoint. What the files hold is the trainer's business.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from minicpmv.errors import CheckpointError, UsageError

__all__ = [
    "MANIFEST",
    "STAGING",
    "ResumePoint",
    "choose_resume_point",
    "find_fault",
    "list_checkpoints",
    "publish",
    "remove_checkpoints",
    "remove_stale",
    "rotate",
    "seal",
]

STAGING = ".saving"
"""Folder inside the output directory for what is being written or deleted; never read."""
MANIFEST = "checkpoint.json"
"""Lists a checkpoint's files and sizes; written last."""

_NAME = re.compile(r"checkpoint-(\d+)")


class ResumePoint(NamedTuple):
    """Where a run starts."""

    path: str | None
    """None: from the beginning."""
    notices: tuple[str, ...]


def list_checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """List ``checkpoint-N`` directories by step, oldest first."""
    root = Path(output_dir)
    if not root.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in root.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def remove_stale(output_dir: str | os.PathLike[str]) -> list[str]:
    """Delete what a killed run was writing or deleting; return its names."""
    staging = Path(output_dir) / STAGING
    if not staging.is_dir():
        return []
    names = sorted(path.name for path in staging.iterdir())
    shutil.rmtree(staging)
    return names


def seal(directory: Path, *, step: int, world_size: int) -> None:
    """List the files of a finished checkpoint and force everything to disk."""
    files = {str(path.relative_to(directory)): path.stat().st_size for path in _files(directory)}
    content = {"step": step, "world_size": world_size, "files": files}
    (directory / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for path in _files(directory):
        _sync(path)
    for folder, _, _ in os.walk(directory):
        _sync(Path(folder))


def publish(staged: Path, final: Path) -> None:
    """Rename a sealed checkpoint into place. One of the same step, from before a resume, makes way."""
    if final.exists():
        _set_aside(final)
    os.replace(staged, final)
    _sync(final.parent)


def rotate(output_dir: str | os.PathLike[str], *, limit: int | None, keep: Iterable[str | None]) -> list[str]:
    """Delete the oldest checkpoints beyond ``limit``; never one in ``keep``, and never the last whole one.

    Args:
        output_dir: The run's directory.
        limit: How many to keep; None or 0 keeps all.
        keep: Paths that stay: the one just written and the best.
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


def find_fault(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None if every listed file is there in its full size."""
    manifest = _read_manifest(checkpoint)
    if manifest is None:
        return f"has no readable {MANIFEST}"
    for name, size in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
    return None


def choose_resume_point(flag: str | None, *, output_dir: str, world_size: int, overwrite: bool) -> ResumePoint:
    """Decide where a run starts.

    Args:
        flag: ``--resume_from_checkpoint``: true for the newest whole checkpoint, a path for that one, else a new run.
        output_dir: The run's directory.
        world_size: Number of processes of this run.
        overwrite: ``--overwrite_output_dir``.

    Raises:
        UsageError: A new run would mix with the checkpoints of an earlier one, or the path is no checkpoint.
        CheckpointError: The checkpoint is damaged or cannot be continued by this number of processes.
    """
    word = (flag or "false").strip()
    if word.lower() in ("false", "no", "none", "0"):
        existing = list_checkpoints(output_dir)
        if existing and not overwrite:
            raise UsageError(
                f"--output_dir: found {existing[-1].name} of an earlier run in {output_dir!r}\n  fix: continue it "
                "with --resume_from_checkpoint true, discard it with --overwrite_output_dir true, or choose another "
                "directory"
            )
        return ResumePoint(None, ())
    if word.lower() not in ("true", "yes", "1"):
        return ResumePoint(str(_check_resumable(_named(word), world_size)), ())
    notices = []
    for checkpoint in reversed(list_checkpoints(output_dir)):
        fault = find_fault(checkpoint)
        if fault is None:
            _check_resumable(checkpoint, world_size)
            return ResumePoint(str(checkpoint), (*notices, f"resuming from {checkpoint}"))
        notices.append(f"{checkpoint} is not whole ({fault}); passed over")
    notices.append(f"--resume_from_checkpoint: no whole checkpoint in {output_dir}; starting from the beginning")
    return ResumePoint(None, tuple(notices))


def _named(path: str) -> Path:
    checkpoint = Path(path)
    if not checkpoint.is_dir():
        raise UsageError(
            f"--resume_from_checkpoint: found no directory {path!r}, expected true, false or a checkpoint\n"
            "  fix: correct the path"
        )
    fault = find_fault(checkpoint)
    if fault is not None:
        raise CheckpointError(f"{checkpoint}: {fault}, expected a whole checkpoint\n  fix: resume from another one")
    return checkpoint


def _check_resumable(checkpoint: Path, world_size: int) -> Path:
    manifest = _read_manifest(checkpoint)
    assert manifest is not None, "find_fault has read it"
    if manifest["world_size"] != world_size:
        raise CheckpointError(
            f"{checkpoint}: written by {manifest['world_size']} processes, this run has {world_size}\n"
            f"  fix: start with {manifest['world_size']} processes, or anew with --overwrite_output_dir true"
        )
    if not any(name.startswith("rng_state") for name in manifest["files"]):
        raise CheckpointError(
            f"{checkpoint}: holds weights only (--save_only_model), expected optimizer and random state as well\n"
            "  fix: use it as --model_name_or_path (full) or --lora_weight_path (LoRA) of a new run"
        )
    return checkpoint


def _read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_complete = isinstance(manifest, dict) and {"step", "world_size", "files"} <= manifest.keys()
    return manifest if is_complete else None


def _set_aside(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves no half of it under its name."""
    staging = checkpoint.parent / STAGING
    staging.mkdir(exist_ok=True)
    aside = staging / f"old-{checkpoint.name}"
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(checkpoint, aside)
    shutil.rmtree(aside)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
