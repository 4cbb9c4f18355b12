"""Reads films that are a folder or a list of pictures: frames that somebody has taken already.

They are as the files have them: EXIF orientation is not applied, as for all pictures.
"""

from __future__ import annotations

import os
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from PIL import Image

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.records.file_kinds import read_kind
from minicpmv.errors import ImageError
from minicpmv.processing.films.facts import TOLERANCE, FilmFacts
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.pictures.patches import DAMAGE, load_image

__all__ = ["MAX_PICTURES", "chosen_facts", "chosen_frames", "list_folder"]

MAX_PICTURES = 20_000
"""Most pictures of one film."""
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
_NOT_MEANT = ("thumbs.db", "desktop.ini")
"""Files that systems put into folders by themselves, as do those that begin with a dot."""


def list_folder(folder: str) -> tuple[str, ...]:
    """Return the pictures of a folder in natural order, in which 10 follows 9.

    Raises:
        FilmError: It cannot be read, or holds anything else.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise FilmError(
            "missing", where=folder, found=str(error.strerror), expected="a folder of frames", fix="correct the path"
        ) from error
    names = [name for name in names if not name.startswith(".") and name.lower() not in _NOT_MEANT]
    for name in sorted(names):
        if not name.lower().endswith(_ENDINGS):
            expected = f"pictures only ({', '.join(_ENDINGS)})"
            raise FilmError(
                "not a film", where=folder, found=f"{name!r} among the frames", expected=expected, fix="move it away"
            )
    return tuple(os.path.join(folder, name) for name in sorted(names, key=_natural))


def chosen_facts(pictures: Sequence[str], request: FilmRequest, *, where: str) -> FilmFacts:
    """Return the facts of pictures, which follow each other at the request's times, or at its rate, or each second.

    Args:
        pictures: Paths in order.
        request: Times for another number of pictures are passed over here; ``find_request_fault`` finds them.
        where: The folder or list in messages.

    Raises:
        FilmError: There is none, one is missing or damaged, or one has another size.
    """
    if not pictures:
        found = "a folder without pictures" if os.path.isdir(where) else "no pictures"
        raise FilmError("no frames", where=where, found=found, expected="at least one frame", fix="add the frames")
    if len(pictures) > MAX_PICTURES:
        found, expected = f"{len(pictures):,} pictures", f"at most {MAX_PICTURES:,}"
        raise FilmError("too long", where=where, found=found, expected=expected, fix="leave out frames")
    times = _times_of(len(pictures), request)
    size = _size_of(pictures[0])
    for path, time in zip(pictures, times, strict=True):
        _check_size(path, _size_of(path), size, time)
    *_, last = times
    each = (last - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
    return FilmFacts(
        duration=last + each,
        rate=1 / each,
        num_frames=len(pictures),
        size=size,
        frame_times=times,
        is_chosen=True,
    )


def chosen_frames(
    pictures: Sequence[str], request: FilmRequest, times: Sequence[float]
) -> Iterator[tuple[bool, Image.Image | None]]:
    """Yield, for each time, whether its picture is the one before, and the picture if it is not.

    Args:
        pictures: Paths in order.
        request: As for ``chosen_facts``.
        times: Seconds, ascending.

    Raises:
        FilmError: A picture is damaged, or has another size.
    """
    starts = _times_of(len(pictures), request)
    last, size = -1, None
    for time in times:
        number = max(0, bisect_right(starts, time + TOLERANCE) - 1)
        if number == last:
            yield True, None
            continue
        last = number
        try:
            image = load_image(pictures[number])
        except ImageError as error:
            raise _fault_of(pictures[number], error, starts[number]) from error
        size = size or image.size
        _check_size(pictures[number], image.size, size, starts[number])
        yield False, image


def _times_of(num_pictures: int, request: FilmRequest) -> tuple[float, ...]:
    if request.times is not None and len(request.times) == num_pictures:
        return tuple(float(time) for time in request.times)
    rate = request.fps or 1.0
    return tuple(number / rate for number in range(num_pictures))


def _size_of(path: str) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about large files; those too large are errors
            if not os.path.isfile(path):
                load_image(path)  # says what is there
            with Image.open(path) as image:
                return image.size
    except ImageError as error:
        raise _fault_of(path, error) from error
    except DAMAGE:
        try:
            return load_image(path).size
        except ImageError as error:
            raise _fault_of(path, error) from error


def _fault_of(path: str, error: ImageError, second: float | None = None) -> FilmError:
    """Return the fault of a frame that cannot be read, which may be no picture at all."""
    kind = read_kind(path)
    if kind is None or kind.is_picture:
        return FilmError.of_picture(error, second=second)
    fix = (
        "name each film by itself: a list of pictures is one film, its frames" if kind.is_film else kind.as_image(path)
    )
    return FilmError(
        "a picture", where=path, found=f"{kind.name} among the frames", expected="pictures", fix=fix, second=second
    )


def _check_size(path: str, found: tuple[int, int], expected: tuple[int, int], second: float) -> None:
    if found != expected:
        raise FilmError(
            "size changes",
            where=path,
            found="a frame of {} x {} pixels".format(*found),
            expected="{} x {}, like the first".format(*expected),
            fix="bring all frames to one size",
            second=second,
        )


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return what names are sorted by, so that numbers in them count as numbers.

    >>> sorted(["f10.png", "f9.png", "f1.png"], key=_natural)
    ['f1.png', 'f9.png', 'f10.png']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part], name
