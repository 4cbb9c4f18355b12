"""Holds what is known of a film without decoding it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TOLERANCE", "FilmFacts", "is_steady", "mean_rate"]

TOLERANCE = 0.001
"""Seconds that a frame may begin after the time that is asked for: containers round to thousandths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmFacts:
    """What the header of a film states, or what is known of an animation's or a folder's frames."""

    duration: float
    """Seconds from the first frame to the end of the last."""
    rate: float
    """Frames a second, on average. Where it varies it is that of the frames' times, whatever the container says."""
    num_frames: int | None
    """Number of frames; None where the header does not state it, as in Matroska and WebM files."""
    size: tuple[int, int]
    """(width, height) in pixels, as a viewer shows it: turned, if the film says so."""
    frame_times: tuple[float, ...] | None = None
    """When each frame is first shown, in seconds, ascending from 0; None where the rate is constant, or where only
    decoding would tell."""
    is_chosen: bool = False
    """Whether somebody has chosen the frames already (a folder or list of pictures), so that all of them are meant."""

    @property
    def frames(self) -> int:
        """Number of frames, at least 1, computed from duration and rate where it is not stated."""
        return max(1, round(self.duration * self.rate) if self.num_frames is None else self.num_frames)


def mean_rate(times: Sequence[float]) -> float | None:
    """Return the frames a second of frames that are first shown at these times; None if there are no two."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None


def is_steady(times: Sequence[float], rate: float) -> bool:
    """Return whether frames follow each other at a constant rate, the first at 0."""
    return all(abs(time - number / rate) <= TOLERANCE for number, time in enumerate(times))
