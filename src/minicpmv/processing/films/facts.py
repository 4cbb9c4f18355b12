"""Holds what is known of a film without decoding it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FilmFacts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmFacts:
    """What the header of a film states, or what is known of an animation's or a folder's frames."""

    duration: float
    """Seconds from the first frame to the end of the last."""
    rate: float
    """Frames a second, on average."""
    num_frames: int | None
    """Number of frames; None where the header does not state it, as in Matroska and WebM files."""
    size: tuple[int, int]
    """(width, height) in pixels, as a viewer shows it: turned, if the film says so."""
    frame_times: tuple[float, ...] | None = None
    """When each frame is first shown, in seconds, ascending from 0; None for films, where only decoding would tell."""
    is_chosen: bool = False
    """Whether somebody has chosen the frames already (a folder or list of pictures), so that all of them are meant."""

    @property
    def frames(self) -> int:
        """Number of frames, at least 1, computed from duration and rate where it is not stated."""
        return max(1, round(self.duration * self.rate) if self.num_frames is None else self.num_frames)
