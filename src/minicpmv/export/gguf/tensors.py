"""One tensor of a GGUF file: what it is made of, and how what it is made of comes back.

The way back is what lets an export be checked: a file is read again, turned into the checkpoint's own tensors, compared
with them and run.
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
    """The checkpoint's tensor that it is made of."""
    shape: Shape
    """In the file, slowest axis first."""
    rows: tuple[int, int] | None = None
    """First row of the source and the one behind the last, or all. One source's tensors, in order, are all of it."""
    change: _Change = _same
    undo: _Change = _same

    def of(self, source: Array) -> Array:
        """Make the tensor of its source."""
        part = source if self.rows is None else source[slice(*self.rows)]
        return np.ascontiguousarray(self.change(part))


def as_it_is(name: str, source: str, shape: Shape) -> EngineTensor:
    """The source under another name."""
    return EngineTensor(name=name, source=source, shape=shape)


def transposed(name: str, source: str, shape: Shape) -> EngineTensor:
    """A matrix that multiplies from the right, as one that multiplies from the left."""
    return EngineTensor(name=name, source=source, shape=shape[::-1], change=np.transpose, undo=np.transpose)


def third(name: str, source: str, shape: Shape, place: int) -> EngineTensor:
    """Query, key or value (0, 1, 2) of a matrix or bias that holds all three."""
    length = shape[0] // 3
    rows = (place * length, (place + 1) * length)
    return EngineTensor(name=name, source=source, shape=(length, *shape[1:]), rows=rows)


def interleaved(name: str, source: str, shape: Shape, num_heads: int) -> EngineTensor:
    """Rows of a query or key projection in the order of rotary positions that turn neighbours.

    transformers turns channel k of a head together with channel k + half; llama.cpp's Llama turns 2 k with 2 k + 1.
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
