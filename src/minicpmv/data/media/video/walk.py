"""Finds the frames of a film that are shown at some times, with little decoding."""

from __future__ import annotations

from typing import Any

from minicpmv.data.media.video.container import AGAIN
from minicpmv.data.media.video.track import MAX_DECODED, SLACK, Track
from minicpmv.processing.films.facts import TOLERANCE

__all__ = ["Walk"]

_FAR = 10.0
"""Seconds ahead to which a file without an index is searched rather than decoded."""


class Walk:
    """Walks through a film: forward while that is near, by a jump to a key frame where that saves decoding.

    It begins with the first frame in any case, whose size all others must have.
    """

    def __init__(self, track: Track, *, is_whole: bool) -> None:
        self._track, self._is_whole = track, is_whole
        self._decoded = 0
        self._shown: tuple[float, Any] = (0.0, None)
        self._jump(0.0)
        self.first: Any = self._shown[1]

    def at(self, time: float) -> tuple[float, Any]:
        """Return the frame that is shown at a time, not before the last one, and when it begins."""
        if self._is_far(time):
            self._jump(time)
        while self._ahead is not None and self._ahead[0] <= time + TOLERANCE:
            self._shown, self._ahead = self._ahead, self._next()
        if self._ahead is None and self._is_whole:
            self._check_end(time)
        return self._shown

    def _is_far(self, time: float) -> bool:
        if self._ahead is None or time <= self._ahead[0]:
            return False
        key = self._track.key_before(time)
        return (key is not None and key > self._ahead[0]) or (
            not self._track.has_index and time - self._ahead[0] > _FAR
        )

    def _jump(self, time: float) -> None:
        """Go to the last key frame from which the time can be reached, or to the beginning."""
        back = 0.0
        while True:
            start = time - back
            self._frames = self._track.decode(start if start > 0 else None)
            first = self._next()
            if first is not None and (start <= 0 or first[0] <= time + TOLERANCE):
                break
            if start <= 0:
                raise self._track.fault("no frames", "no frame that can be decoded", "at least one", AGAIN, 0.0)
            back = max(1.0, 2 * back)
        self._shown, self._ahead = first, self._next()

    def _next(self) -> tuple[float, Any] | None:
        """Return the next frame in order of time; None at the end."""
        for second, frame in self._frames:
            if frame is None:
                if self._is_whole:
                    found = f"damage at {second:.1f} s"
                    raise self._track.fault("damaged", found, "a film without damage", AGAIN, second)
                continue
            self._decoded += 1
            if self._decoded > MAX_DECODED:
                found = f"more than {MAX_DECODED:,} frames to decode"
                raise self._track.fault("too long", found, "fewer", "cut it into parts", second)
            return second, frame
        return None

    def _check_end(self, time: float) -> None:
        second, frame = self._shown
        rate = self._track.rate() or 25.0
        end = second + (float(frame.duration * self._track.time_base) if frame.duration else 1 / rate)
        if time > end + SLACK:
            stated = self._track.duration() or time
            found = f"frames up to {end:.1f} of {stated:.1f} s"
            fix = f"{AGAIN} if it was cut off; if only its sound is longer, ask for an end of {end:.2f} s"
            raise self._track.fault("ends early", found, f"the frame at {time:.1f} s", fix, end)
