"""Converts a checkpoint's tensor to one of a GGUF file, and back.

The way back makes an export verifiable: a file is read back, converted into the checkpoint's own tensors, compared with
them and run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minicpmv.models.checkpoints.weight_files import Shape

__all__ = ["EngineTensor", "as_it_is", "interleaved", "third", "transposed"]

Array = NDArray[np.float32]
_Change = Callable[[Array], Array]


def _same(values: Array) -> Array:
    return values


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineTensor:
    """A tensor under the name that the engine looks for."""

    name: str
    source: str
    """Name of the checkpoint's tensor that it is computed from."""
    shape: Shape
    """Shape in the file, slowest axis first."""
    rows: tuple[int, int] | None = None
    """First row of the source and the one after the last, or None for all. A source's tensors, in order, cover it."""
    axis: int = 0
    """Axis of the source along which its rows are counted."""
    change: _Change = _same
    undo: _Change = _same
    rounding: float = 0.0
    """How far the change and its undoing may be off, relative to the size of the source."""

    def of(self, source: Array) -> Array:
        """Compute the tensor from its source."""
        part = source if self.rows is None else source[(slice(None),) * self.axis + (slice(*self.rows),)]
        return np.ascontiguousarray(self.change(part))


def as_it_is(name: str, source: str, shape: Shape) -> EngineTensor:
    """Keep the source under another name."""
    return EngineTensor(name=name, source=source, shape=shape)


def transposed(name: str, source: str, shape: Shape) -> EngineTensor:
    """Transpose a matrix that multiplies from the right into one that multiplies from the left."""
    return EngineTensor(name=name, source=source, shape=shape[::-1], change=np.transpose, undo=np.transpose)


def third(name: str, source: str, shape: Shape, place: int) -> EngineTensor:
    """Take the query, key or value (0, 1, 2) from a matrix or bias that holds all three."""
    length = shape[0] // 3
    rows = (place * length, (place + 1) * length)
    return EngineTensor(name=name, source=source, shape=(length, *shape[1:]), rows=rows)


def interleaved(name: str, source: str, shape: Shape, num_heads: int) -> EngineTensor:
    """Reorder the rows of a query or key projection for rotary positions that rotate neighbouring channels.

    transformers rotates channel k of a head with channel k + half; llama.cpp's Llama rotates 2 k with 2 k + 1.
    """

    def reorder(values: Array, inner: tuple[int, int]) -> Array:
        return values.reshape(num_heads, *inner, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    half = shape[0] // num_heads // 2
    return EngineTensor(
        name=name,
        source=source,
        shape=shape,
        change=lambda values: reorder(values, (2, half)),
        undo=lambda values: reorder(values, (half, 2)),
    )
