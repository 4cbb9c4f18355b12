"""Reads animations (GIF, WebP, APNG) through Pillow, which alone knows how long each of their frames is shown.

Pillow has no way to read these lengths without decoding, so facts cost as much as frames; animations are short.
"""

from __future__ import annotations

import io
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from minicpmv.data.media.film_faults import FilmError
from minicpmv.files.plain_files import UnusableFileError, read_plain
from minicpmv.processing.films.facts import TOLERANCE, FilmFacts
from minicpmv.processing.pictures.patches import DAMAGE

__all__ = ["MAX_ANIMATION_BYTES", "MAX_ANIMATION_PIXELS", "animation_facts", "animation_frames", "is_animation"]

MAX_ANIMATION_BYTES = 2**30
MAX_ANIMATION_PIXELS = 4_000_000_000
"""Most pixels of all frames together: 4,000 frames of a megapixel, half a minute of decoding."""
_FORMATS = ("GIF", "WEBP", "PNG")
_LEAST_MILLISECONDS = 20
"""Shorter frames, which are seldom meant, are shown for 100 ms, as browsers do."""
_USUAL_MILLISECONDS = 100


def is_animation(head: bytes) -> bool:
    """Return whether a file that begins so is of a kind that may be animated."""
    return head.startswith((b"GIF8", b"\x89PNG\r\n\x1a\n")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def animation_facts(path: str) -> FilmFacts:
    """Return the facts of an animation.

    Raises:
        FilmError: It is damaged, too large, or a picture that is not animated.
    """
    with _opened(path) as image:
        times, end = [0.0], 0.0
        for number, _ in enumerate(_frames(image, path)):
            if number:
                times.append(end)
            end = times[-1] + _milliseconds(image) / 1000
        return FilmFacts(
            duration=end, rate=len(times) / end, num_frames=len(times), size=image.size, frame_times=tuple(times)
        )


def animation_frames(path: str, times: Sequence[float]) -> Iterator[tuple[bool, Image.Image | None]]:
    """Yield, for each time, whether its frame is the one before, and the frame if it is not.

    Args:
        path: The file.
        times: Seconds, ascending.

    Raises:
        FilmError: As for ``animation_facts``.
    """
    starts = animation_facts(path).frame_times or ()
    with _opened(path) as image:
        last = -1
        for time in times:
            number = max(0, bisect_right(starts, time + TOLERANCE) - 1)
            if number == last:
                yield True, None
                continue
            try:
                image.seek(number)
                frame = image.convert("RGB")
            except DAMAGE as error:
                raise _damaged(path, error, starts[number]) from error
            last = number
            yield False, frame


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        content = read_plain(Path(path), most_bytes=MAX_ANIMATION_BYTES)
    except UnusableFileError as error:
        raise FilmError(
            "too large", where=path, found=str(error), expected="an animation", fix="save it as a film (MP4)"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about large files; those too large are errors
        try:
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
        except DAMAGE as error:
            raise _damaged(path, error, 0.0) from error
        with image:
            if image.format == "PNG" and not getattr(image, "is_animated", False):
                found, fix = "a picture that is not animated", "name it as an image, or as the one frame of a list"
                raise FilmError("not a film", where=path, found=found, expected="an animation", fix=fix)
            yield image


def _frames(image: Image.Image, path: str) -> Iterator[None]:
    """Go to each frame in turn."""
    width, height = image.size
    number = 0
    while True:
        if (number + 1) * width * height > MAX_ANIMATION_PIXELS:
            found = f"more than {number:,} frames of {width} x {height} pixels"
            expected = f"at most {MAX_ANIMATION_PIXELS:,} pixels in all frames together"
            raise FilmError("too large", where=path, found=found, expected=expected, fix="save it as a film (MP4)")
        try:
            image.seek(number)
            image.load()
        except EOFError:
            if number == 0:
                raise _damaged(path, EOFError("no frame"), 0.0) from None
            return
        except DAMAGE as error:
            raise _damaged(path, error, None) from error
        yield None
        number += 1


def _milliseconds(image: Image.Image) -> float:
    stated = image.info.get("duration", 0)
    return float(stated) if stated >= _LEAST_MILLISECONDS else float(_USUAL_MILLISECONDS)


def _damaged(path: str, error: BaseException, second: float | None) -> FilmError:
    if isinstance(error, Image.DecompressionBombError):
        return FilmError("too large", where=path, found=str(error), expected="smaller frames", fix="shrink it")
    return FilmError(
        "damaged",
        where=path,
        found=f"an animation that cannot be decoded ({type(error).__name__}: {error})",
        expected="a complete file",
        fix="save or download it again",
        second=second,
    )
