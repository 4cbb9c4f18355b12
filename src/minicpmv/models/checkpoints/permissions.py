"""Gives saved weights the permissions of other new files: safetensors writes files that only their owner may read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_NAME

__all__ = ["OrdinaryFiles"]

_WEIGHTS = f"{Path(SAFE_WEIGHTS_NAME).stem}*.safetensors"


class OrdinaryFiles:
    """A model whose ``save_pretrained`` writes weights that others may read as the umask and the folder allow."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save as transformers does. No other file of the folder is touched."""
        parent: Any = super()
        parent.save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        weights = [path for path in folder.glob(_WEIGHTS) if path.is_file() and not path.is_symlink()]
        if not weights:  # saved by another process
            return
        fresh = folder / f".{secrets.token_hex(8)}"
        with fresh.open("xb") as file:
            ordinary = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        fresh.unlink()
        for path in weights:
            path.chmod(ordinary)
