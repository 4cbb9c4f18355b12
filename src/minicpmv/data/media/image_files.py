"""Inspects image files before a run: whether each exists, is complete and readable, its size, and its oddities.

Before a run, a file is decoded only if its end does not already prove it complete; a check decodes every one, because
neither a checksum nor an end proves that all pixels are present. Sizes are those of the stored pixels; EXIF
rotation is not applied, as in ``processing.pictures.patches``.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from minicpmv.data.media.image_faults import ImageUse, describe_fault, is_file_path, name_of, others_of
from minicpmv.data.media.image_traits import DepthError, Trait, check_depth, is_deep, traits_of
from minicpmv.errors import ImageError, Problem
from minicpmv.processing.pictures.patches import DAMAGE, load_image

__all__ = [
    "MAX_SUGGESTIONS",
    "ImageReport",
    "Seen",
    "Size",
    "inspect_files",
    "survey_images",
]

Size = tuple[int, int]

_JPEG_END = b"\xff\xd9"
_TAIL_BYTES = 64
_WORTH_THREADS = 4
"""Files."""
MAX_SUGGESTIONS = 20
"""Most missing files for which a similar name is looked up, which takes long in large folders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReport:
    """Holds the findings about all files."""

    sizes: dict[str | bytes, Size]
    """Size in pixels, (width, height), of each readable file."""
    problems: list[tuple[int, Problem]]
    """Problem of each other file, with the position of the first record that uses it."""
    notices: list[tuple[int, Problem]]
    """Notices about readable files, likewise."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A readable image."""

    size: Size
    traits: tuple[Trait, ...] = ()
    is_complete: bool = True
    is_deep: bool = False


def survey_images(
    uses: Sequence[ImageUse],
    *,
    with_notices: bool = True,
    decode: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageReport:
    """Inspect each file once, in parallel, and report problems and oddities.

    Args:
        uses: Every place where a record names an image.
        with_notices: Whether to look for oddities, at a small cost for each file.
        decode: Whether to decode every file, not only those whose end leaves doubt.
        on_progress: Called with the number of inspected files and of all, in the calling thread.
    """
    first: dict[str | bytes, ImageUse] = {}
    counts: dict[str | bytes, int] = {}
    for use in uses:
        first.setdefault(use.path, use)
        counts[use.path] = counts.get(use.path, 0) + 1
    report = ImageReport(sizes={}, problems=[], notices=[])
    outcomes = inspect_files(list(first), with_notices=with_notices, decode=decode)
    for number, (path, outcome) in enumerate(zip(first, outcomes, strict=True), 1):
        use = first[path]
        if isinstance(outcome, ImageError):
            suggest = len(report.problems) < MAX_SUGGESTIONS
            problem = describe_fault(use, outcome, num_others=counts[path] - 1, suggest=suggest)
            report.problems.append((use.record, problem))
        else:
            report.sizes[path] = outcome.size
            report.notices.extend((use.record, _word(use, trait, counts[path] - 1)) for trait in outcome.traits)
        if on_progress is not None:
            on_progress(number, len(first))
    return report


def inspect_files(
    paths: Sequence[str | bytes], *, with_notices: bool = False, decode: bool = False
) -> Iterator[Seen | ImageError]:
    """Inspect files, several at a time, and yield the findings in order.

    Args:
        paths: Paths of files, or embedded images.
        with_notices: As in ``survey_images``.
        decode: As in ``survey_images``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow's, about large or odd files: D307 reports the former, the others are harmless
        if len(paths) < _WORTH_THREADS:
            yield from (_inspect(path, with_notices, decode) for path in paths)
            return
        pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))  # reading and decoding release the GIL
        try:
            yield from pool.map(lambda path: _inspect(path, with_notices, decode), paths)
        finally:
            pool.shutdown(cancel_futures=True)  # at Ctrl-C, only running reads are awaited


def _inspect(path: str | bytes, with_notices: bool, decode: bool) -> Seen | ImageError:
    seen = _look(path, with_notices)
    if seen is not None and seen.is_deep and (fault := _find_depth_fault(path)):
        return fault
    if seen is not None and seen.is_complete and (not decode or _decodes_as_jpeg(path)):
        return seen
    if is_file_path(path) and not os.path.isfile(path):  # describe_fault words it, which knows the record
        return ImageError(where=path, found="no file", expected="an image file", fix="correct the path")
    try:
        size = load_image(path).size
    except ImageError as error:
        return error
    return Seen(size, seen.traits if seen is not None else ())


def _look(path: str | bytes, with_notices: bool) -> Seen | None:
    """Read a file's header and end. Return None if that fails: decoding, which follows, reports the fault."""
    is_file = not isinstance(path, bytes)
    if is_file and not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") if is_file else io.BytesIO(path) as file, Image.open(file) as image:
            traits = tuple(traits_of(image, path if is_file else "")) if with_notices else ()
            size = image.size  # before verify(), which closes the image
            deep = is_deep(image)
            return Seen(size, traits, is_complete=_is_complete(file, image), is_deep=deep)
    except DAMAGE:
        return None


def _find_depth_fault(path: str | bytes) -> DepthError | None:
    try:
        with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path) as image:
            check_depth(image, path if isinstance(path, str) else "image")
    except DepthError as error:
        return error
    except DAMAGE:
        pass  # decoding, which follows, reports the fault
    return None


def _decodes_as_jpeg(path: str | bytes) -> bool:
    """Decode a JPEG at an eighth of its size, three times as fast as in full and equally strict."""
    try:
        with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path) as image:
            if image.format != "JPEG":
                return False
            image.draft(None, (1, 1))
            image.load()
            return True
    except DAMAGE:
        return False


def _is_complete(file: BinaryIO, image: Image.Image) -> bool:
    if image.format == "PNG":
        image.verify()  # checks every chunk up to the end
        return True
    if image.format == "JPEG":  # verify() checks nothing here
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read().rstrip(b"\0").endswith(_JPEG_END)
    return False


def _word(use: ImageUse, trait: Trait, num_others: int) -> Problem:
    found = f"{trait.found}: {name_of(use)}{others_of(num_others)}"
    return Problem(trait.code, use.where, found, trait.expected, trait.fix, severity="notice")
