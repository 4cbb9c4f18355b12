"""Writes safetensors files one tensor at a time, so that it needs the memory of one tensor and not of one file.

The safetensors package needs all tensors of a file in memory. Its format is simple: the length of a header in 8 bytes,
the header in JSON, and the values end to end. Source: the package's own description of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor, uint8

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import write_json
from minicpmv.models.checkpoints.weight_files import DTYPE_NAMES

__all__ = ["num_bytes", "write_shards"]

_ALIGNMENT = 8


def write_shards(
    directory: Path,
    outlines: Mapping[str, Tensor],
    compute: Callable[[str], Tensor],
    *,
    max_shard_size: str,
) -> list[str]:
    """Write tensors as ``model.safetensors``, or as numbered files and their index, and return the files' names.

    Args:
        directory: An empty directory.
        outlines: Name -> a tensor of that shape and precision; its values are ignored.
        compute: Computes a tensor by its name; called once for each.
        max_shard_size: Largest file, such as ``5GB``; a larger tensor has a file of its own.

    Raises:
        UsageError: ``max_shard_size`` is not a size.
    """
    try:
        split = split_torch_state_dict_into_shards(dict(outlines), max_shard_size=max_shard_size)
    except ValueError as error:
        raise UsageError(
            f"--max-shard-size: found {max_shard_size!r}, expected a size such as 5GB or 500MB\n  fix: "
            "--max-shard-size 5GB"
        ) from error
    for file, names in split.filename_to_tensors.items():
        _write_file(directory / file, {name: outlines[name] for name in names}, compute)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(directory / "model.safetensors.index.json", index)
    return list(split.filename_to_tensors)


def num_bytes(outlines: Sequence[Tensor]) -> int:
    """Count the bytes of tensors."""
    return sum(outline.numel() * outline.element_size() for outline in outlines)


def _write_file(path: Path, outlines: Mapping[str, Tensor], compute: Callable[[str], Tensor]) -> None:
    # Wide types first, so that each value is aligned to its own size.
    names = sorted(outlines, key=lambda name: -outlines[name].element_size())
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        outline, begin = outlines[name], end
        end += num_bytes([outline])
        header[name] = {
            "dtype": DTYPE_NAMES[outline.dtype],
            "shape": list(outline.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = compute(name)
            outline = outlines[name]
            assert (tensor.shape, tensor.dtype) == (outline.shape, outline.dtype), name
            file.write(tensor.contiguous().flatten().view(uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
