"""Opens the films of a record for its encoding, and says what a film's files hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpmv.data.media.film_facts import files_of
from minicpmv.data.media.films import inspect_film, read_frames
from minicpmv.data.records.record import Film
from minicpmv.errors import UsageError
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.request import FilmRequest, find_request_fault

__all__ = ["ReadFilm", "digest_film", "open_film"]


@dataclass(frozen=True, slots=True)
class ReadFilm:
    """A film whose header has been read, as the processor takes it."""

    film: Film
    facts: FilmFacts

    @property
    def request(self) -> FilmRequest:
        """Which frames are asked for."""
        return self.film.request

    def read(self, times: Sequence[float], convert: Callable[[Any], Any]) -> Sequence[Any]:
        """Decode the frames that are shown at some times.

        Raises:
            FilmError: The film cannot be decoded.
        """
        decode: Any = read_frames
        return decode(self.film, times, convert=convert)


def open_film(source: str | Sequence[str], **asked: Any) -> ReadFilm:
    """Open a film for ``processor.apply_chat_template``.

    Args:
        source: Path of a film file, an animation or a folder of frames; or the paths of its frames.
        asked: What is asked of its frames: ``start``, ``end``, ``fps``, ``max_frames`` or ``times``.

    Raises:
        FilmError: The film cannot be used.
        UsageError: What is asked does not fit it.
    """
    times = asked.get("times")
    fields: dict[str, Any] = asked | {"times": None if times is None else tuple(times)}
    request = FilmRequest(**fields)
    film = Film(source=source if isinstance(source, str) else tuple(source), request=request)
    _refuse(request, None, film)
    facts = inspect_film(film)
    _refuse(request, facts, film)
    return ReadFilm(film, facts)


def _refuse(request: FilmRequest, facts: FilmFacts | None, film: Film) -> None:
    if fault := find_request_fault(request, facts):
        raise UsageError(
            f"{film.name}: {fault.field}: found {fault.found}, expected {fault.expected}\n  fix: {fault.fix}"
        )


def digest_film(film: Film) -> str:
    """Return the sha256 of what a film's files hold, one after the other.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.sha256()
    for path in files_of(film):
        of_file = hashlib.sha256()
        with Path(path).open("rb") as file:
            while chunk := file.read(2**20):
                of_file.update(chunk)
        digest.update(of_file.digest())
    return digest.hexdigest()
