"""Where a model's files are: in the directory that was named, or in the one into which the hub's were fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from minicpmv.errors import CheckpointError

__all__ = ["find_directory"]


def find_directory(
    name: str, *, asked_by: str, fix: str = "download the model and give its directory", **options: Any
) -> Path:
    """Return a model's directory.

    Args:
        name: The directory, or ``owner/name`` on the hub.
        asked_by: Begins the message of an error.
        fix: Ends it.
        options: Which files to fetch and where to, as for ``huggingface_hub.snapshot_download``.

    Raises:
        CheckpointError: There is neither such a directory nor such a hub repository.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise CheckpointError(f"{asked_by}: found no directory {name!r}, expected a model's\n  fix: correct the path")
    try:
        return Path(snapshot_download(name, **options))
    except (OSError, ValueError) as error:  # huggingface_hub's own errors are of these kinds
        raise CheckpointError(
            f"{asked_by}: found neither a directory {name!r} nor a reachable hub repository of that name "
            f"({type(error).__name__})\n  fix: {fix}"
        ) from error
