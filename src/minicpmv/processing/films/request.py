"""Reads what a record or a caller may ask of a film's frames. Nothing is raised: a check makes a problem of a fault."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from minicpmv.processing.films.facts import FilmFacts

__all__ = ["MAX_FRAMES", "REQUEST_KEYS", "FilmRequest", "RequestFault", "find_request_fault", "find_request_oddity"]

MAX_FRAMES = 2048
"""Most frames of one film that anybody may ask for; the releases take 64 to 540 by themselves."""
_MAX_RATE = 240.0
"""Most frames a second that anybody may ask for."""
_ROUNDED = 0.5
"""Seconds by which an end may lie behind that of the film without a word."""
_EXPECTED = {
    "start": "seconds from the beginning of the film, 0 or more",
    "end": "seconds from the beginning of the film, more than 0",
    "fps": f"frames a second, more than 0 and at most {_MAX_RATE:g}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmRequest:
    """Which frames are asked for. What is None is left to the rule of the release."""

    start: float | None = None
    """Seconds. Frames before it are left out."""
    end: float | None = None
    """Seconds. Frames from there on are left out; an end behind the film's is the film's."""
    fps: float | None = None
    """Frames a second: how many are taken of a film or animation; how far apart the pictures of a folder or list are,
    which are 1 second apart otherwise."""
    max_frames: int | None = None
    """Most frames taken."""
    times: tuple[float, ...] | None = None
    """Seconds, ascending: which frames of a film or animation are taken; when each picture of a folder or list was."""

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> FilmRequest:
        """Make a request of JSON values, which may be of any type until ``find_request_fault`` has seen them."""
        asked: dict[str, Any] = {key: fields.get(key) for key in REQUEST_KEYS}
        if isinstance(asked["times"], list):
            asked["times"] = tuple(asked["times"])
        return cls(**asked)

    def filled(self, facts: FilmFacts, *, fps: float | None, max_frames: int | None) -> FilmRequest:
        """Return the request with a caller's own numbers where it leaves them open.

        Frames that somebody has chosen keep their distance, and times that are asked for are all taken.
        """
        if self.times is not None and not facts.is_chosen:
            return self
        return replace(
            self,
            fps=self.fps if facts.is_chosen or self.fps is not None else fps,
            max_frames=max_frames if self.max_frames is None else self.max_frames,
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked, so that the release's rule decides alone."""
        return self == FilmRequest()


REQUEST_KEYS = tuple(each.name for each in fields(FilmRequest))
"""Names under which frames are asked for."""


@dataclass(frozen=True, slots=True)
class RequestFault:
    """What is wrong with a request, or odd about it, in the words of a ``Problem``."""

    field: str
    """Of the request, such as ``start``."""
    found: str
    expected: str
    fix: str


def find_request_fault(request: FilmRequest, facts: FilmFacts | None = None) -> RequestFault | None:
    """Return the first fault of a request; None if it can be followed.

    Args:
        request: Values as they were read, of any type.
        facts: Those of the film, to see whether what is asked lies inside it; None before it has been opened.
    """
    fault = _find_wrong_value(request) or _find_contradiction(request)
    return fault or (None if facts is None else _find_unfitting(request, facts))


def find_request_oddity(request: FilmRequest, facts: FilmFacts) -> RequestFault | None:
    """Return what a request without fault asks for and its film does not have; None if it has all.

    An end that lies little behind the film's is one that was rounded.
    """
    length = facts.duration
    if request.end is not None and request.end > length + _ROUNDED:
        expected = f"an end within the film's {length:.4g} seconds; it is shown to its end"
        return RequestFault("end", f"{request.end:g}", expected, "nothing, unless another film or second was meant")
    end = length if request.end is None else min(request.end, length)
    seconds = end - (request.start or 0)
    if request.fps is not None and not facts.is_chosen and request.fps * seconds < 1:
        expected = f"a frame or more of {seconds:.4g} seconds; one is shown"
        fix = f"write fps as {1 / seconds:.2g} or more, or max_frames as 1, if one frame is meant"
        return RequestFault("fps", f"{request.fps:g} frames a second", expected, fix)
    return None


def _find_wrong_value(request: FilmRequest) -> RequestFault | None:
    for name, expected in _EXPECTED.items():
        value = getattr(request, name)
        if value is not None and not _is_sound(name, value):
            fix = f"write {name} without quotes" if isinstance(value, str) else f"correct {name}, or leave it out"
            return RequestFault(name, f"{value!r:.60}", expected, fix)
    most = request.max_frames
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MAX_FRAMES):
        expected = f"a whole number from 1 to {MAX_FRAMES}"
        return RequestFault("max_frames", f"{most!r:.60}", expected, "correct max_frames, or leave it out")
    return None if request.times is None else _find_wrong_time(request.times)


def _find_wrong_time(times: object) -> RequestFault | None:
    if not isinstance(times, (tuple, list)) or not times:
        return RequestFault("times", f"{times!r:.60}", "a list of seconds", "write times as [0.5, 1.0, 2.5]")
    if len(times) > MAX_FRAMES:
        return RequestFault("times", f"{len(times)} times", f"at most {MAX_FRAMES}", "ask for fewer frames")
    for time in times:
        if not _is_number(time) or time < 0:
            expected = "seconds from the beginning of the film, 0 or more"
            return RequestFault("times", f"{time!r:.60}", expected, "write times as [0.5, 1.0, 2.5]")
    for before, after in pairwise(times):
        if after <= before:
            expected = "times in ascending order, each once"
            return RequestFault("times", f"{after:g} behind {before:g}", expected, "sort the times")
    return None


def _find_contradiction(request: FilmRequest) -> RequestFault | None:
    if request.end is not None and request.end <= (request.start or 0):
        expected = f"an end behind the start ({request.start or 0:g})"
        return RequestFault("end", f"{request.end:g}", expected, "correct start or end")
    if request.times is not None and request.fps is not None:
        return RequestFault("fps", "fps together with times", "one of the two", "remove fps: times say which frames")
    return None


def _find_unfitting(request: FilmRequest, facts: FilmFacts) -> RequestFault | None:
    length = f"the film's {facts.duration:g} seconds"
    if request.start is not None and request.start >= facts.duration:
        fix = f"begin before {facts.duration:g}"
        return RequestFault("start", f"{request.start:g}", f"a start within {length}", fix)
    if request.times is None:
        return None
    if facts.is_chosen:
        if len(request.times) != facts.frames:
            found = f"{len(request.times)} times for {facts.frames} pictures"
            return RequestFault("times", found, "one time for each picture", "add or remove times")
        return None
    for name in ("start", "end", "max_frames"):
        if getattr(request, name) is not None:
            expected = "one of the two"
            return RequestFault(name, f"{name} together with times", expected, f"remove {name}: times say which")
    if request.times[-1] >= facts.duration:
        return RequestFault("times", f"{request.times[-1]:g}", f"times within {length}", "remove what lies behind")
    return None


def _is_sound(name: str, value: object) -> bool:
    if not _is_number(value):
        return False
    assert isinstance(value, (int, float)), "a number"
    return (value > 0 or (name == "start" and value == 0)) and (name != "fps" or value <= _MAX_RATE)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
