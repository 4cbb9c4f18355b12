"""Opens what a record names as a film: a film file, an animation, a folder of frames or a list of pictures.

Facts come from headers, so a check decodes next to nothing. Frames are decoded one film at a time, in one thread, and
only those that are kept are held. Which frames these are is decided in ``processing.films``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from minicpmv.data.media.animations import animation_facts, animation_frames, is_animation
from minicpmv.data.media.chosen_frames import chosen_facts, chosen_frames, list_folder
from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.video.video_file import VideoFile
from minicpmv.data.records.path_faults import find_path_fault, suggest_name
from minicpmv.data.records.record import Film
from minicpmv.processing.films.facts import FilmFacts

__all__ = ["Film", "inspect_film", "read_frames"]

_HEAD_BYTES = 16


def inspect_film(film: Film) -> FilmFacts:
    """Return the facts of a film.

    Of a film file the header is read and the first frame decoded, which tells how it is turned; of an animation, all
    frames; of a folder or list, all headers, since frames have one size.

    Raises:
        FilmError: It cannot be used, as far as these tell.
    """
    if not isinstance(film.source, str):
        return chosen_facts(film.source, film.request, where=film.name)
    if os.path.isdir(film.source):
        return chosen_facts(list_folder(film.source), film.request, where=film.source)
    if is_animation(_read_head(film.source)):
        return animation_facts(film.source)
    with VideoFile(film.source) as file:
        return file.facts()


def read_frames(
    film: Film,
    times: Sequence[float],
    *,
    convert: Callable[[Image.Image], Image.Image] | None = None,
    is_whole: bool = True,
) -> list[Image.Image]:
    """Decode the frames that are shown at some times.

    Args:
        film: The film.
        times: Seconds from its first frame, ascending. A frame that is shown at several of them comes several times,
            as one object.
        convert: What is kept in place of each frame, such as the frame at the size that the model sees. Without it
            each is held as it is, 3 bytes a pixel.
        is_whole: Whether a film that ends before it says, or is damaged between the frames that are taken, is refused.
            If not, what is shown after the end is its last frame.

    Returns:
        RGB pictures, one for each time, turned as a viewer shows them, all of one size before ``convert``.

    Raises:
        FilmError: The film cannot be decoded, with the second at which it fails.
    """
    kept: list[Image.Image] = []
    for is_same, frame in _frames(film, times, is_whole):
        if is_same:
            kept.append(kept[-1])
        elif frame is not None:
            kept.append(frame if convert is None else convert(frame))
    return kept


def _frames(film: Film, times: Sequence[float], is_whole: bool) -> Iterator[tuple[bool, Image.Image | None]]:
    if not isinstance(film.source, str):
        yield from chosen_frames(film.source, film.request, times)
    elif os.path.isdir(film.source):
        yield from chosen_frames(list_folder(film.source), film.request, times)
    elif is_animation(_read_head(film.source)):
        yield from animation_frames(film.source, times)
    else:
        with VideoFile(film.source) as file:
            yield from file.frames(times, is_whole=is_whole)


def _read_head(path: str) -> bytes:
    """Return the first bytes of a file, which must be a plain one.

    Raises:
        FilmError: It is not there, not local, or nothing that can be read.
    """
    if "://" in path[:20] or path.startswith("data:"):
        found, fix = "a web address" if "://" in path else "a data: URL", "download the film and give its path"
        raise FilmError("not local", where=f"{path:.80}", found=found, expected="a path", fix=fix)
    if fault := find_path_fault(path):
        raise FilmError("missing", where=path, found=fault.found, expected="a film", fix=fault.fix)
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        near = suggest_name(path)
        fix = f"did you mean {near!r}?" if near else "correct the path or add the file"
        raise FilmError("missing", where=path, found="no such file", expected="a film", fix=fix) from error
