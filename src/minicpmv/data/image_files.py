"""Looks at image files before a run: is each there, complete and readable, and how large is it?

A file is decoded only where its end does not already prove it complete. Sizes are those of the stored pixels; EXIF
rotation is not applied, as in ``processing.images``.
"""

from __future__ import annotations

import difflib
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from minicpmv.errors import Problem
from minicpmv.processing.images import ImageError, load_image

__all__ = ["ImageUse", "inspect_images"]

Size = tuple[int, int]

_JPEG_END = b"\xff\xd9"
_TAIL_BYTES = 64
_MAX_SUGGESTIONS = 20
"""Missing files for which a nearby name is looked up: it takes long in large folders, and nobody reads more."""
_SUSPICIOUS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
"""What Pillow raises while it only verifies; decoding then tells whether the picture is usable nevertheless."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUse:
    """One path in one record."""

    record: int
    """Position of the record in its file."""
    where: str
    """As messages name the place."""
    written: str
    """The path as the record has it."""
    path: str
    """The path that is opened."""
    root: str
    """The folder at which relative paths start."""


def inspect_images(uses: Sequence[ImageUse]) -> tuple[dict[str, Size], list[tuple[int, Problem]]]:
    """Look at each file once, however many records use it.

    Returns:
        The (width, height) of each readable path, and for each other path one problem with the position of the first
        record that uses it.
    """
    first: dict[str, ImageUse] = {}
    counts: dict[str, int] = {}
    for use in uses:
        first.setdefault(use.path, use)
        counts[use.path] = counts.get(use.path, 0) + 1
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # reading and decoding release the GIL
        outcomes = dict(zip(first, pool.map(_inspect, first), strict=True))
    sizes: dict[str, Size] = {}
    problems: list[tuple[int, Problem]] = []
    for path, outcome in outcomes.items():
        if isinstance(outcome, ImageError):
            use = first[path]
            suggest = len(problems) < _MAX_SUGGESTIONS
            problem = _describe(use, outcome, num_others=counts[path] - 1, suggest=suggest)
            problems.append((use.record, problem))
        else:
            sizes[path] = outcome
    return sizes, problems


def _inspect(path: str) -> Size | ImageError:
    try:
        if os.path.isfile(path) and (size := _size_if_complete(path)):
            return size
        return load_image(path).size
    except ImageError as error:
        return error


def _size_if_complete(path: str) -> Size | None:
    """Return the size if the file's end proves it complete; None means that only decoding can tell."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            size = image.size
            if image.format == "PNG":
                image.verify()  # checks every chunk up to the end
                return size
            if image.format == "JPEG":  # verify() looks at nothing here
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return size if file.read().rstrip(b"\0").endswith(_JPEG_END) else None
    except (*_SUSPICIOUS, Image.DecompressionBombError):
        pass  # decoding, which follows, words the fault
    return None


def _describe(use: ImageUse, error: ImageError, *, num_others: int, suggest: bool) -> Problem:
    others = f"; {num_others} more use(s) of this file" if num_others else ""
    if os.path.isfile(use.path):
        return Problem("D142", use.where, f"{error.found} in {use.path!r}{others}", error.expected, error.fix)
    fix = _suggest(use) if suggest else "correct the path or add the file"
    found = f"a folder: {use.path!r}" if os.path.isdir(use.path) else f"no file {use.path!r}"
    return Problem("D141", use.where, found + others, "an image file", fix)


def _suggest(use: ImageUse) -> str:
    """Tell what was probably meant by a path at which there is no file."""
    path = Path(use.path)
    if "\\" in use.written:
        return "write / instead of \\ in paths"
    if not path.exists() and path.parent.is_dir() and (near := _nearest(path.name, sorted(os.listdir(path.parent)))):
        return f"did you mean {near!r}, which is in that folder?"
    if not os.path.isabs(use.written) and os.path.isfile(use.written):
        return (
            f"relative paths start at {use.root}; the file exists from the current folder, so set the image root to it"
        )
    if not path.parent.is_dir():
        return f"correct the path: there is no folder {str(path.parent)!r} (relative paths start at {use.root})"
    return "correct the path or add the file"


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """Find the same name in other case or with another extension, or else a likely misspelling."""
    for key in (str.casefold, lambda text: Path(text).stem.casefold()):
        for candidate in names:
            if key(candidate) == key(name):
                return candidate
    close = difflib.get_close_matches(name, names[:10_000], n=1, cutoff=0.85)
    return close[0] if close else None
