"""Describes everything that answers depend on, so that two runs can be compared and their differences named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import minicpmv
from minicpmv.data.records.file_state import FileState, FileStates
from minicpmv.data.records.record import quote
from minicpmv.data.sources.source_digests import Content
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import base_of_adapter
from minicpmv.releases.directories import SMALL_FILES, find_directory

__all__ = ["describe_differences", "describe_identity"]

_LOADED = (".safetensors", ".bin", ".json", ".model", ".txt")
"""Suffixes of the files read from a model's directory: weights, configs and the tokenizer's files."""
_SHOWN = 12
"""Digits of a digest."""


def describe_identity(
    *,
    model: str,
    data: str,
    content: Content,
    images: FileStates,
    settings: GenerationSettings,
    turns: str,
    seed: int,
    batch_size: int | None,
    max_batch_tokens: int | None,
    device: torch.device,
    dtype: str | None,
    other_base: str | None,
) -> dict[str, Any]:
    """Describe everything that determines the answers.

    Weights and images count by name, size and modification time, because reading them all takes long; data by content.
    Batch limits count because rounding depends on which records are answered together.

    Args:
        model: The directory, or the name on the hub.
        data: The file or folder.
        content: Digest of the data.
        images: The image files, as they were when the data were checked.
        settings: How tokens are chosen.
        turns: Which answers of a record are asked for.
        seed: Seed of the random numbers.
        batch_size: Most records answered together.
        max_batch_tokens: Most tokens answered together.
        device: Device of the computation.
        dtype: Precision that was asked for, if any.
        other_base: Difference that ``compare_own_base`` has allowed, if any.
    """
    base = base_of_adapter(model)
    paths, states = images.as_arrays()
    opened = hashlib.sha256(paths.tobytes() + states.tobytes()).hexdigest()
    return {
        "model": _describe_model(model),
        "base": None if base is None else _describe_model(base),
        "data": f"{Path(data).resolve()} (sha256 {content.sha256[:_SHOWN]})",
        "images": f"{len(states)} files (state {opened[:_SHOWN]})",
        **asdict(settings),
        "turns": turns,
        "seed": seed,
        "batch_size": batch_size,
        "batch_tokens": max_batch_tokens,
        "device": device.type,
        "dtype": dtype,
        "other_base": other_base,
        "minicpmv": minicpmv.__version__,
        **{name: metadata.version(name) for name in ("torch", "transformers")},
    }


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the differences between two runs.

    >>> describe_differences({"seed": 1, "top_k": 5}, {"seed": 2, "top_k": 5})
    'seed 1 and now 2'
    """

    def differences() -> Iterator[str]:
        for name in dict.fromkeys((*now, *then)):
            if name not in then or name not in now or then[name] != now[name]:
                yield f"{name} {_show(then.get(name))} and now {_show(now.get(name))}"

    return "; ".join(differences())


def _show(value: object) -> str:
    return value if isinstance(value, str) else quote(value)


def _describe_model(path: str) -> str:
    if Path(path).is_dir():
        name, folder = str(Path(path).resolve()), Path(path)
    else:  # a name on the hub, whose files are in one cache folder per version
        name, folder = path, find_directory(path, asked_by="model", **SMALL_FILES)
    files = sorted(file for file in folder.iterdir() if file.suffix in _LOADED and file.is_file())
    described = "".join(f"{file.name} {FileState.of(str(file))}\n" for file in files)
    return f"{name} (state {hashlib.sha256(described.encode()).hexdigest()[:_SHOWN]})"
