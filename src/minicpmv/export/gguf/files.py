"""Writes GGUF files tensor by tensor, and reads them back into the checkpoint's own tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, ReaderTensor
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray
from torch import Tensor

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.export.checkpoint import Checkpoint
from minicpmv.export.gguf.tensors import EngineTensor
from minicpmv.export.gguf.types import tensor_type
from minicpmv.models.finiteness import is_finite

__all__ = ["read_back", "refuse_replacing", "write_tensors"]

Array = NDArray[np.float32]

_MAGIC = b"GGUF"


def refuse_replacing(files: Iterable[Path], *, overwrite: bool) -> None:
    """Verify that writing files destroys nothing.

    Args:
        files: The files that will be written.
        overwrite: Whether existing GGUF files may be replaced.

    Raises:
        UsageError: A file exists and may not be replaced, or is not a GGUF file.
    """
    for file in files:
        if not os.path.lexists(file):
            continue
        if not _is_gguf(file):
            raise UsageError(
                f"{file}: found something other than a GGUF file, which would be lost, expected none of this name\n"
                "  fix: name another folder, or move it away"
            )
        if not overwrite:
            raise UsageError(
                f"{file}: found a file that would be replaced, expected none of this name\n"
                "  fix: name another folder, or --overwrite"
            )


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def write_tensors(
    writer: GGUFWriter,
    checkpoint: Checkpoint,
    tensors: Sequence[EngineTensor],
    wanted: GGMLQuantizationType,
    computed: Mapping[str, Array] | None = None,
) -> None:
    """Write the file: the writer's metadata, then one tensor after the other.

    Args:
        writer: The writer, with all metadata.
        checkpoint: Source of the tensors.
        tensors: The tensors in the order of the file.
        wanted: The file's number format, from which each tensor's follows.
        computed: Tensors that no checkpoint holds, written first and unconverted.

    Raises:
        CheckpointError: A tensor of the checkpoint is not finite.
    """
    for name, values in (computed or {}).items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for tensor in tensors:
        chosen = tensor_type(tensor.name, tensor.shape, wanted)
        size = int(np.prod(quant_shape_to_byte_shape(tensor.shape, chosen)))
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, raw_dtype=chosen)
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in (computed or {}).values():
            writer.write_tensor_data(values)
        for source, made_of_it in groupby(tensors, key=lambda tensor: tensor.source):
            values = _read_finite(checkpoint, source)
            for tensor in made_of_it:
                chosen = tensor_type(tensor.name, tensor.shape, wanted)
                writer.write_tensor_data(quantize(tensor.of(values), chosen))


def _read_finite(checkpoint: Checkpoint, name: str) -> Array:
    tensor = checkpoint.weights.read(name)
    if not is_finite(tensor):
        raise CheckpointError(
            f"{checkpoint.path} {name}: found values that are not finite (NaN or infinite), expected finite ones\n"
            "  fix: export an earlier checkpoint, or copy this one again"
        )
    return tensor.float().numpy()


def read_back(file: Path, tensors: Sequence[EngineTensor]) -> Iterator[tuple[str, Tensor, GGMLQuantizationType]]:
    """Yield the checkpoint's tensors as read from a file: name, float32 values, and their format in the file.

    Raises:
        CheckpointError: A tensor is missing in the file, or has another shape.
    """
    in_file = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for source, made_of_it in groupby(tensors, key=lambda tensor: tensor.source):
        pieces = list(made_of_it)
        values = [piece.undo(_values(file, in_file.get(piece.name), piece)) for piece in pieces]
        whole = np.ascontiguousarray(np.concatenate(values, pieces[0].axis) if len(values) > 1 else values[0])
        yield source, torch.from_numpy(whole), in_file[pieces[0].name].tensor_type


def _values(file: Path, found: ReaderTensor | None, expected: EngineTensor) -> Array:
    shape = None if found is None else tuple(int(size) for size in reversed(found.shape))
    if found is None or shape != expected.shape:
        raise CheckpointError(
            f"{file} {expected.name}: found {'no such tensor' if shape is None else f'the shape {list(shape)}'}, "
            f"expected the shape {list(expected.shape)}\n  fix: export again"
        )
    values = dequantize(found.data, found.tensor_type)
    return np.array(values, dtype=np.float32).reshape(expected.shape)  # a copy: the file is only mapped to memory
