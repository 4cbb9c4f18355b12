"""Models whose numbers are not finite, made of the fixtures."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.tiny import FIXTURES

__all__ = ["EMBEDDINGS", "HEAD", "make_broken"]

EMBEDDINGS, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"


def make_broken(folder: Path, *, tensor: str, value: float, row: int | None = None, model: str = "v2_6") -> Path:
    """Copy a fixture, with one value everywhere in a tensor, or in one row of it."""
    shutil.copytree(FIXTURES / model, folder, ignore=shutil.ignore_patterns("*.npz", "images"))
    tensors = load_file(folder / "model.safetensors")
    changed = tensors[tensor].float()
    changed[slice(None) if row is None else row] = value
    tensors[tensor] = changed
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
