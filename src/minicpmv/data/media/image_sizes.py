"""Holds the image sizes of many records, in a few bytes for each, however long the paths.

A file that many records use is opened once, unless very many others come in between.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.machine_copies import join
from minicpmv.data.media.image_faults import ImageUse, describe_fault
from minicpmv.data.media.image_files import MAX_SUGGESTIONS, Size, inspect_files
from minicpmv.data.records.file_state import FileStates
from minicpmv.data.records.inline_images import is_embedded
from minicpmv.data.records.sequences import LazySequence
from minicpmv.data.sharing import Sharing
from minicpmv.errors import ImageError, Problem

__all__ = ["ImageSizes", "SizeReader"]

_REMEMBERED = 100_000
"""Most files that are remembered, about 30 MB."""


class ImageSizes(LazySequence["tuple[Size, ...]"]):
    """Holds (width, height) in pixels of each record's images, in the order of adding."""

    def __init__(self) -> None:
        self._ends: array[int] | NDArray[np.int64] = array("q")  # end of each record's sizes, counted in images
        self._pixels: array[int] | NDArray[np.int32] = array("i")  # width, height, width, height, ...

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, sizes: Sequence[Size]) -> None:
        """Add the sizes of the next record's images, unless these are made from arrays."""
        assert isinstance(self._ends, array), "those from arrays are whole"
        assert isinstance(self._pixels, array), "likewise"
        for size in sizes:
            self._pixels.extend(size)
        self._ends.append(len(self._pixels) // 2)

    def as_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return what :meth:`from_arrays` takes: where each record's pictures end, (N,), and all sizes, (2 * M,)."""
        ends, pixels = self._ends, self._pixels
        return (
            np.array(ends, np.int64) if isinstance(ends, array) else ends,
            np.array(pixels, np.int32) if isinstance(pixels, array) else pixels,
        )

    @classmethod
    def from_arrays(cls, ends: NDArray[np.int64], pixels: NDArray[np.int32]) -> ImageSizes:
        """Hold the sizes that :meth:`as_arrays` returned as (N,) and (2 * M,) numbers, without a copy of them."""
        sizes = cls()
        sizes._ends, sizes._pixels = ends, pixels
        return sizes

    def joined(self, sharing: Sharing) -> ImageSizes:
        """Put the sizes of all processes, of neighbouring parts, one after the other."""
        ends, pixels = self.as_arrays()
        before = sum(sharing.gather(len(pixels) // 2)[: sharing.rank])
        return ImageSizes.from_arrays(*join([ends + before, pixels], sharing))

    def _item(self, index: int) -> tuple[Size, ...]:
        start = self._ends[index - 1] if index else 0
        pixels = self._pixels[2 * start : 2 * self._ends[index]].tolist()
        return tuple(zip(pixels[::2], pixels[1::2], strict=True))


@dataclass(slots=True)
class _Fault:
    use: ImageUse
    """The first."""
    error: ImageError
    cause: BaseException | None
    """The error's ``__cause__``, which pickling the error would lose."""
    uses: int


class SizeReader:
    """Opens images, and remembers their faults.

    Args:
        states: Receives the state of each file before it is opened.
    """

    def __init__(self, states: FileStates | None = None) -> None:
        self._states = states
        self._known: dict[str | bytes, Size] = {}
        self._faults: dict[str | bytes, _Fault] = {}

    def read(self, uses: Sequence[ImageUse]) -> list[Size | None]:
        """Return the size of each image; None if it cannot be read."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        new: dict[str | bytes, ImageUse] = {}
        for use in uses:
            if use.path not in self._known and use.path not in self._faults:
                new.setdefault(use.path, use)
        if self._states is not None:
            for path in new:
                if isinstance(path, str) and not is_embedded(path):
                    self._states.add(path)
        for use, outcome in zip(new.values(), inspect_files(list(new)), strict=True):
            if isinstance(outcome, ImageError):
                self._faults[use.path] = _Fault(use, outcome, outcome.__cause__, 0)
            else:
                self._known[use.path] = outcome.size
        for use in uses:
            if use.path in self._faults:
                self._faults[use.path].uses += 1
        sizes = [self._known.get(use.path) for use in uses]
        for path in filter(is_embedded, new):  # whole images, hardly ever repeated
            self._known.pop(path, None)
        return sizes

    @property
    def faults(self) -> dict[str | bytes, _Fault]:
        """Return what :meth:`add_faults` takes, in the order of finding; it can be pickled."""
        return {path: replace(fault, cause=_picklable(fault.cause)) for path, fault in self._faults.items()}

    def add_faults(self, faults: Mapping[str | bytes, _Fault]) -> None:
        """Add the faults that another reader has found in later records."""
        for path, fault in faults.items():
            if path in self._faults:
                self._faults[path].uses += fault.uses
            else:
                fault.error.__cause__ = fault.cause
                self._faults[path] = fault

    def problems(self) -> list[tuple[int, Problem]]:
        """Word one problem for each image that cannot be read, with the first record that uses it."""
        return [
            (
                fault.use.record,
                describe_fault(fault.use, fault.error, num_others=fault.uses - 1, suggest=number < MAX_SUGGESTIONS),
            )
            for number, fault in enumerate(self._faults.values())
        ]


def _picklable(cause: BaseException | None) -> BaseException | None:
    """Keep a cause that says which fault it is; others need not be picklable, and are not asked for."""
    return Image.DecompressionBombError(*cause.args) if isinstance(cause, Image.DecompressionBombError) else None
