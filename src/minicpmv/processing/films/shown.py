"""Says what a reader of films offers to whoever encodes one. Decoders are above this room (``minicpmv.data.media``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.films.request import FilmRequest

__all__ = ["Convert", "OpenFilm", "OpenedFilm", "ShownFilm"]

Convert = Callable[[Any], Any]
"""Makes what is kept in place of each decoded frame: of a Pillow picture, which is RGB and has the film's size."""


class OpenedFilm(Protocol):
    """A film whose header has been read."""

    @property
    def facts(self) -> FilmFacts:
        """What the header states."""
        ...

    @property
    def request(self) -> FilmRequest:
        """Which frames are asked for, without fault for these facts."""
        ...

    def read(self, times: Sequence[float], convert: Convert) -> Sequence[Any]:
        """Decode the frames that are shown at some times, in seconds, and return what ``convert`` makes of each."""
        ...


class OpenFilm(Protocol):
    """Opens the film of a message."""

    def __call__(self, source: Any, **asked: Any) -> OpenedFilm:
        """Open a film.

        Args:
            source: Path of a film file, an animation or a folder of frames; or the paths of its frames.
            asked: What is asked of its frames, by the names of ``FilmRequest``.
        """
        ...


@dataclass(frozen=True, slots=True)
class ShownFilm:
    """A film with the frames that the model is shown."""

    plan: FilmPlan
    read: Callable[[Convert], Sequence[Any]]
    """Decodes these frames, each only until it is converted, so that few are in memory in full size."""
