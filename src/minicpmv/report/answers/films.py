"""Reads a few frames of the films of shown answers from the disk, to embed each film once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import read_frames
from minicpmv.data.records.record import Film
from minicpmv.pages.images import data_url, shrink
from minicpmv.processing.films.request import FilmRequest, find_request_fault
from minicpmv.processing.films.sampling import spread

__all__ = ["FilmOfLine", "Films", "Frame", "Strip", "read_films"]

_MAX_PIXELS = 120
"""Longest side in pixels."""
_MAX_FRAMES = 8
"""Most frames shown of one film."""
_MAX_FILMS = 2
"""Most films shown of one record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmOfLine:
    """Names a film as a file of answers does."""

    film: Film
    times: tuple[float, ...]
    """Seconds: the frames that a model was shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Holds one frame of a strip."""

    url: str
    """``data:`` URL."""
    time: float
    """Seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Holds the shown frames of one film."""

    name: str
    frames: Sequence[Frame] = ()
    num_hidden: int = 0
    """Frames that the model was shown, and the strip leaves out, evenly."""
    fault: str = ""
    """Reason why it cannot be shown."""


def read_films(values: Any) -> list[FilmOfLine]:
    """Read the ``videos`` of a line of answers; what is not of their form is left out."""
    films = [_read(value) for value in cast("list[Any]", values)] if isinstance(values, list) else []
    return [film for film in films if film is not None]


def _read(value: Any) -> FilmOfLine | None:
    if not isinstance(value, Mapping):
        return None
    fields = cast("Mapping[str, Any]", value)
    source, times = fields.get("video"), fields.get("shown_at")
    if isinstance(source, list) and all(isinstance(path, str) for path in cast("list[Any]", source)):
        source = tuple(cast("list[str]", source))
    request, shown = FilmRequest.of_fields(fields), FilmRequest.of_fields({"times": times})
    is_sound = find_request_fault(request) is None and find_request_fault(shown) is None
    if not source or not isinstance(source, (str, tuple)) or not is_sound or not times:
        return None
    return FilmOfLine(film=Film(source=source, request=request), times=tuple(times))


class Films:
    """Embeds frames in a page.

    Args:
        folder: Start of relative paths: the folder in which the run was started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embed = cache(self._show)

    def of(self, films: Sequence[FilmOfLine]) -> list[Strip]:
        """Return the first films of a record."""
        return [self._embed(film) for film in films[:_MAX_FILMS]]

    def _show(self, shown: FilmOfLine) -> Strip:
        source, times = shown.film.source, shown.times
        paths = [source] if isinstance(source, str) else source
        places = [str(self._folder / path) for path in paths]
        film = replace(shown.film, source=places[0] if isinstance(source, str) else tuple(places))
        kept = [times[index] for index in spread(len(times), min(len(times), _MAX_FRAMES))]
        name = Path(paths[0]).name
        read: Any = read_frames  # what is kept may be anything
        try:
            urls = read(film, kept, convert=lambda frame: data_url(shrink(frame, _MAX_PIXELS)))
        except (FilmError, OSError, ValueError) as error:  # the last two for an invalid file name
            return Strip(name=name, fault=error.found if isinstance(error, FilmError) else str(error))
        frames = [Frame(url=url, time=time) for url, time in zip(urls, kept, strict=True)]
        return Strip(name=name, frames=frames, num_hidden=len(times) - len(kept))
