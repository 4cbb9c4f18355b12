"""Lists the checkpoints in a run's directory. It reads none of their files."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["list_checkpoints"]

_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """List ``checkpoint-N`` directories by step, oldest first."""
    root = Path(output_dir)
    if not root.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in root.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]
