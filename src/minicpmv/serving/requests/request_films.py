"""Reads the films of a request: opens each in a process with limits, and chooses its frames within the server's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from minicpmv.data.media.film_faults import FilmError
from minicpmv.files.scratch import scratch_folder
from minicpmv.processing.films.request import FilmRequest, find_request_fault
from minicpmv.processing.films.shown import ShownFilm
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.serving.errors import RequestError, refused
from minicpmv.serving.requests.request_images import read_content
from minicpmv.serving.requests.sent_films import SentFilm, open_sent_film
from minicpmv.serving.settings import ServerSettings

__all__ = ["AskedFilm", "open_films"]

_SECONDS = 60.0
"""For opening and decoding all films of one request."""
_AT_ONCE = threading.BoundedSemaphore(4)
"""Requests whose films are decoded at the same time: fewer than there are readers, so that others are still read."""


@dataclass(frozen=True, slots=True)
class AskedFilm:
    """Holds what a request says of one film."""

    address: str
    """A ``data:``, ``file:`` or web address, or a path."""
    request: FilmRequest


@contextmanager
def open_films(
    films: Sequence[AskedFilm], processor: MiniCPMVProcessor, settings: ServerSettings, *, bytes_left: int
) -> Iterator[list[ShownFilm]]:
    """Open all films of a request, in a ``with`` statement; within it their frames can be decoded, once.

    Args:
        films: As the request names them.
        processor: The model's.
        settings: Limits of the server.
        bytes_left: Most bytes of all files together.

    Raises:
        RequestError: A film is not allowed, missing, damaged or too large, or too many are being decoded.
    """
    if not films:
        yield []
        return
    if processor.version.reading.films is None:
        reason = processor.version.reading.no_films
        raise refused("messages film 0", "a film", f"none: {processor.version.model} takes none, because {reason}",
                      "serve a release that does (2.6 and later)")  # fmt: skip
    if not _AT_ONCE.acquire(blocking=False):
        raise RequestError(
            503,
            "messages: found other films being decoded, expected fewer at once\n  fix: try again later",
            code="overloaded",
            retry_after=5,
        )
    deadline = time.monotonic() + _SECONDS
    try:
        with ExitStack() as stack:
            shown: list[ShownFilm] = []
            num_frames = 0
            folder = stack.enter_context(scratch_folder("film"))  # the next request removes that of a killed server
            for number, film in enumerate(films):
                where = f"messages film {number}"
                content = read_content(film.address, where, settings, bytes_left, kind="film")
                bytes_left -= len(content)
                file = folder / str(number)
                file.write_bytes(content)
                seconds = max(1.0, deadline - time.monotonic())
                opened = stack.enter_context(open_sent_film(str(file), film.request, where=where, seconds=seconds))
                shown.append(_choose(opened, processor, settings, where))
                num_frames += len(shown[-1].plan.times)
                if num_frames > settings.max_video_frames:
                    raise refused(where, f"{num_frames} frames in the films up to it",
                                  f"at most {settings.max_video_frames} in all films of a request",
                                  "set max_frames in each film's part")  # fmt: skip
            yield shown
    except FilmError as error:
        raise refused(error.where, error.found, error.expected, error.fix) from error
    finally:
        _AT_ONCE.release()


def _choose(opened: SentFilm, processor: MiniCPMVProcessor, settings: ServerSettings, where: str) -> ShownFilm:
    """Plan the frames of a film: where a request sets no number, as many as the server allows."""
    facts, request = opened.facts, opened.request
    if facts.duration > settings.max_video_seconds:
        raise refused(where, f"a film of {facts.duration:.1f} seconds", f"at most {settings.max_video_seconds:g}",
                      "send the part that matters: ffmpeg -ss START -t SECONDS -i FILM -c copy PART.mp4")  # fmt: skip
    if fault := find_request_fault(request, facts):
        raise refused(f"{where}.{fault.field}", fault.found, fault.expected, fault.fix)
    plan = processor.plan_film(facts, request)
    if len(plan.times) > settings.max_video_frames and request.max_frames is None and request.times is None:
        plan = processor.plan_film(facts, replace(request, max_frames=settings.max_video_frames))
    return ShownFilm(plan, partial(opened.read, plan.times))
