"""Limits what ``--overwrite`` may delete to a model's directory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from minicpmv.errors import UsageError
from minicpmv.releases.table import is_model_type
from minicpmv.wording import name_few

__all__ = ["refuse_losses"]

_CONFIG = "config.json"
_MODEL_FILES = (
    _CONFIG,
    "generation_config.json",
    "merge.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
)


def refuse_losses(directory: Path, sources: Iterable[Path]) -> None:
    """Verify that a directory is a model's, so that everything in it can be created again.

    Args:
        directory: The directory to replace.
        sources: Source directories of the model; files with the same names are copies of theirs.

    Raises:
        UsageError: It contains something else.
    """
    files = sorted(path.relative_to(directory) for path in directory.rglob("*") if not path.is_dir())
    places = list(sources)
    lost = [
        str(file)
        for file in files
        if not any((source / file).exists() for source in places)
        and (file.parent != Path() or not any(fnmatch(file.name, pattern) for pattern in _MODEL_FILES))
    ]
    if not _is_model(directory):
        lost = [str(file) for file in files]
    if lost:
        raise UsageError(
            f"{directory}: found {name_few(map(repr, lost))}, which is no part of a model and would be "
            "lost, expected a model's directory to replace\n  fix: name another directory, or move these files away"
        )


def _is_model(directory: Path) -> bool:
    try:
        config = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and is_model_type(config.get("model_type"))
