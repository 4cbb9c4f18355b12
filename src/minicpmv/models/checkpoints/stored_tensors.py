"""Finds the bytes of single tensors inside safetensors files, for whoever copies or digests them without reading them.

The header says where each tensor lies; docs of safetensors, "Format". Nothing here makes tensors of the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from minicpmv.errors import CheckpointError

__all__ = ["StoredTensor", "list_stored", "read_range"]

_CHUNK = 4 * 2**20


class StoredTensor(NamedTuple):
    """A tensor as it lies in a file."""

    name: str
    dtype: str
    """As the header has it, such as ``BF16``."""
    shape: tuple[int, ...]
    file: Path
    begin: int
    """Bytes from the beginning of the file."""
    end: int

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return self.end - self.begin

    def digest(self) -> str:
        """Return the sha256 of its bytes.

        Raises:
            CheckpointError: The file ends before the tensor, or cannot be read.
        """
        return read_range(self)


def list_stored(file: Path) -> list[StoredTensor]:
    """List the tensors of a safetensors file whose header is known to be sound, in the header's order."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    stored: list[StoredTensor] = []
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        stored.append(StoredTensor(name, entry["dtype"], tuple(entry["shape"]), file, begin, end))
    return stored


def read_range(tensor: StoredTensor, write: Callable[[memoryview], object] = len) -> str:
    """Read a tensor's bytes piece by piece; return their sha256.

    Args:
        tensor: The tensor.
        write: Called with each piece, which is overwritten by the next.

    Raises:
        CheckpointError: The file ends before the tensor, or cannot be read.
    """
    digest = hashlib.sha256()
    for piece in _pieces(tensor):
        digest.update(piece)
        write(piece)
    return digest.hexdigest()


def _pieces(tensor: StoredTensor) -> Iterator[memoryview]:
    buffer, start = memoryview(bytearray(min(_CHUNK, tensor.num_bytes))), tensor.begin
    try:
        with open(tensor.file, "rb", buffering=0) as opened:
            opened.seek(start)
            while start < tensor.end:
                count = opened.readinto(buffer[: min(len(buffer), tensor.end - start)])
                if not count:
                    raise CheckpointError(
                        f"{tensor.file}: found an end at byte {start:,}, expected {tensor.end:,} bytes\n"
                        "  fix: download or copy the file again"
                    )
                yield buffer[:count]
                start += count
    except OSError as error:
        raise CheckpointError(
            f"{tensor.file}: found that {tensor.name} cannot be read ({error.strerror or error}), expected the file "
            "that was there when the model was loaded\n  fix: put the file back, or download it again"
        ) from error
