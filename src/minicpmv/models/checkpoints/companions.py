"""Copies what a checkpoint holds besides its weights: tokenizer, processor, template, code, licence, config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import torch

from minicpmv.files.atomic_files import write_json
from minicpmv.models.checkpoints.end_tokens import complete_end_ids, find_end_ids
from minicpmv.releases.table import detect_version

__all__ = ["copy_companions", "list_companions"]

_NOT_COPIED = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.index.json")


_WRITTEN_ANEW = {"config.json", "run.json", "checkpoint.json", "verification.json", "merge.json", "trainer_state.json"}


_MOST_BYTES = 256 * 2**20


def copy_companions(base: Path, directory: Path, *, dtype: torch.dtype | None) -> None:
    """Copy what a checkpoint holds beside its weights: tokenizer, processor, template, code, licence, config.

    Byte for byte, so whatever worked with the original works with the copy. Code is copied, never run. The config is
    the original's with the precision of the weights: transformers would write the state of training into it. The
    generation config gets the end tokens that it lacks.

    Args:
        base: The checkpoint that training started from.
        directory: Where the weights were saved.
        dtype: Their precision; None if it is as the original's config says.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if dtype is not None:
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
    write_json(directory / "config.json", config)
    for name in list_companions(base):
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / name, target)  # follows the links of a download cache
    _complete_generation_config(directory / "generation_config.json", find_end_ids(base, detect_version(config)))


def list_companions(base: Path) -> Iterator[Path]:
    """List what is copied of a checkpoint, by the names inside it."""
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        hidden = any(part.startswith(".") for part in name.parts)
        trained_here = any(part.startswith("checkpoint-") or part == "runs" for part in name.parts[:-1])
        if hidden or trained_here or not path.is_file() or path.stat().st_size > _MOST_BYTES:
            continue
        if str(name) in _WRITTEN_ANEW or any(fnmatch(path.name, pattern) for pattern in _NOT_COPIED):
            continue
        yield name


def _complete_generation_config(file: Path, ends: list[int]) -> None:
    """Name the end tokens that it lacks, at which other engines would not stop either."""
    stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    completed = complete_end_ids(stated.get("eos_token_id"), ends)
    if completed != stated.get("eos_token_id"):
        write_json(file, stated | {"eos_token_id": completed})
