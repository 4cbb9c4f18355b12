"""How large the images of many records are: a few bytes for each, however long their paths.

Files are opened as they turn up; a file that many records use is opened once, unless very many others came between.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.data.embedded import is_embedded
from minicpmv.data.image_files import MAX_SUGGESTIONS, ImageUse, Size, describe_fault, inspect_files
from minicpmv.data.sequences import LazySequence
from minicpmv.errors import Problem
from minicpmv.processing.images import ImageError

__all__ = ["ImageSizes", "SizeReader"]

_REMEMBERED = 100_000
"""Files. About 30 MB."""


class ImageSizes(LazySequence["tuple[Size, ...]"]):
    """Widths and heights in pixels: for each record those of its images, in the order in which they were added."""

    def __init__(self) -> None:
        self._ends = array("q")  # of each record's sizes, counted in images
        self._pixels = array("i")  # width, height, width, height, ...

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, sizes: Sequence[Size]) -> None:
        """Add the sizes of the next record's images."""
        for size in sizes:
            self._pixels.extend(size)
        self._ends.append(len(self._pixels) // 2)

    def _item(self, index: int) -> tuple[Size, ...]:
        start = self._ends[index - 1] if index else 0
        return tuple((self._pixels[2 * i], self._pixels[2 * i + 1]) for i in range(start, self._ends[index]))


@dataclass(slots=True)
class _Fault:
    use: ImageUse
    """The first."""
    error: ImageError
    uses: int


class SizeReader:
    """Opens images, and remembers what is wrong with any."""

    def __init__(self) -> None:
        self._known: dict[str | bytes, Size] = {}
        self._faults: dict[str | bytes, _Fault] = {}

    def read(self, uses: Sequence[ImageUse]) -> list[Size | None]:
        """Return the size of each image; None where it cannot be read."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        new: dict[str | bytes, ImageUse] = {}
        for use in uses:
            if use.path not in self._known and use.path not in self._faults:
                new.setdefault(use.path, use)
        for use, outcome in zip(new.values(), inspect_files(list(new)), strict=True):
            if isinstance(outcome, ImageError):
                self._faults[use.path] = _Fault(use, outcome, 0)
            else:
                self._known[use.path] = outcome.size
        for use in uses:
            if use.path in self._faults:
                self._faults[use.path].uses += 1
        sizes = [self._known.get(use.path) for use in uses]
        for path in filter(is_embedded, new):  # a whole image each, and hardly ever the same twice
            self._known.pop(path, None)
        return sizes

    def problems(self) -> list[tuple[int, Problem]]:
        """Word one problem for each image that cannot be read, with the first record that uses it."""
        return [
            (
                fault.use.record,
                describe_fault(fault.use, fault.error, num_others=fault.uses - 1, suggest=number < MAX_SUGGESTIONS),
            )
            for number, fault in enumerate(self._faults.values())
        ]
