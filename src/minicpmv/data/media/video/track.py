"""Decodes the video track of an open film file: from its beginning, or from a key frame before some time.

It says what the header states and what each frame holds; ``walk`` finds the frames that are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from minicpmv.data.media.film_faults import FilmError, FilmFault
from minicpmv.data.media.video.container import (
    AGAIN,
    ERRORS_OF_FILES,
    choose_track,
    fault_in,
    import_av,
    open_container,
)
from minicpmv.data.media.video.mp4_boxes import read_sample_times
from minicpmv.files.plain_files import open_plain

__all__ = ["MAX_DECODED", "SLACK", "Track"]

MAX_DECODED = 2_000_000
"""Most frames that are decoded for the frames of one film: 18 hours at 30 a second."""
_MAX_RATE = 240.0
"""Frames a second that a header may state; beyond it, they are counted."""
_INDEXED = ("mov", "avi")
"""Readers that know all key frames from the beginning; Matroska's does after a jump, the others never."""
SLACK = 0.5
"""Seconds by which a film may be shorter than it states: often the sound is a little longer."""


class Track:
    """Holds the video track of an open film file, which ``close`` closes.

    Args:
        path: The file.

    Raises:
        FilmError: It is no film that can be used, as far as its header tells.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._open = ExitStack()
        try:
            self._reopen()
        except BaseException:  # Ctrl-C as well: close the file, then re-raise
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    @property
    def num_frames(self) -> int | None:
        """Return the number of frames that the header states; None if it states none."""
        return self._stream.frames or None

    @property
    def has_index(self) -> bool:
        """Return whether all key frames are known from the beginning."""
        return self._has_index

    @property
    def time_base(self) -> float:
        """Seconds of the unit in which frames state how long they are shown."""
        return self._base

    def duration(self) -> float | None:
        """Seconds from the first frame to the end, as the header states it; None if it does not."""
        stream, container = self._stream, self._container
        start = self._start * self._base
        late = (self._start - (stream.start_time or 0)) * self._base if not self._is_stamped_in_decoding_order else 0.0
        if stream.duration:
            seconds = stream.duration * self._base - late
        elif (written := _read_clock(stream.metadata.get("DURATION", ""))) is not None:
            seconds = written - start
        elif container.duration:
            counts_from_zero = container.format.name.startswith(("matroska", "flv"))
            seconds = container.duration / 1e6 - (start if counts_from_zero else late)
        else:
            return None
        return seconds if 0 < seconds < math.inf else None

    def rate(self) -> float | None:
        """Frames a second as the header states it; None if it does not, or not believably."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate and 0 < rate <= _MAX_RATE else None

    def times(self, stated: float | None) -> list[float] | None:
        """Return when each frame is shown, in seconds from the first; None if only the header tells.

        Args:
            stated: Seconds that the film has according to its header. A file that holds less was perhaps cut off, and
                is then believed its header, so that decoding misses what is not there.
        """
        rate = self.rate()
        if self._is_stamped_in_decoding_order and stated is not None and rate is not None:
            return None  # AVI has a constant rate
        if self._has_index:
            entries = self._stream.index_entries
            with open_plain(self._path) as file:
                times = read_sample_times(file, self._stream.id)
            # Edits may leave out frames, as FFmpeg's index says; those of fragments are not in the table.
            if times and len(times) == len(entries) and not any(entry.is_discard for entry in entries):
                return times
        times = self._read_times()
        is_cut = stated is not None and rate is not None and abs(stated - times[-1] - 1 / rate) > SLACK
        return None if is_cut else times

    def decode(self, seconds: float | None) -> Iterator[tuple[float, Any]]:
        """Yield frames with their seconds from a time on, or somewhat before it; None: from the beginning.

        A sign of damage is yielded as None in place of a frame, but not before the first frame: a recording may begin
        between two key frames.
        """
        av = import_av(self._path)
        if seconds is None and not self._is_at_start:
            self._reopen()
        self._is_at_start = False
        now, each = max(0.0, seconds or 0.0), 1 / (self.rate() or 25.0)
        has_begun = False
        try:
            if seconds is not None:
                self._container.seek(self._start + int(seconds / self._base), stream=self._stream, backward=True)
            packets = self._container.demux(self._stream)
            while True:
                try:
                    packet = next(packets, None)
                    if packet is None:
                        return
                    if packet.is_corrupt and has_begun:
                        yield now, None
                    for frame in packet.decode():
                        # Frames before the first key frame, after a jump, lack what they build on.
                        if not (has_begun or frame.key_frame or (seconds is None and not frame.is_corrupt)):
                            continue
                        stamp = frame.dts if self._is_stamped_in_decoding_order else frame.pts
                        if seconds is None and not has_begun and stamp is not None:
                            self._start = stamp
                        before, now = now, (now + each if stamp is None else (stamp - self._start) * self._base)
                        if has_begun and (frame.is_corrupt or now < before):
                            yield before, None
                        has_begun = True
                        yield now, frame
                except av.error.EOFError:
                    return
                except av.error.InvalidDataError:
                    if has_begun:
                        yield now, None
        except (av.error.FFmpegError, *ERRORS_OF_FILES) as error:
            found = f"damage at {now:.1f} s ({type(error).__name__}: {error})"
            raise self.fault("damaged", found, "a film", AGAIN, now) from error

    def key_before(self, seconds: float) -> float | None:
        """Return when the last key frame up to a time is, in decoding order, if the file has an index."""
        entries = self._stream.index_entries
        number = entries.search_timestamp(self._start + int(seconds / self._base), backward=True)
        return None if number < 0 else (entries[number].timestamp - self._start) * self._base

    def fault(self, kind: FilmFault, found: str, expected: str, fix: str, second: float | None = None) -> FilmError:
        """Word a fault of this file."""
        return fault_in(self._path, kind, found, expected, fix, second)

    def _reopen(self) -> None:
        """Go to the beginning: some readers find it by no jump (MPEG-TS)."""
        self.close()
        self._container = open_container(self._path, self._open)
        self._stream = choose_track(self._container, self._path)
        self._start: int = self._stream.start_time or 0
        self._base = float(self._stream.time_base)
        # AVI has no time of showing. What FFmpeg guesses of it goes back and forth where there are B frames.
        self._is_stamped_in_decoding_order = self._container.format.name == "avi"
        self._has_index = self._container.format.name.startswith(_INDEXED)
        self._is_at_start = True

    def _read_times(self) -> list[float]:
        """Read the whole file, without decoding; return when each frame is shown, from the first that can be."""
        av = import_av(self._path)
        start, times = self._start, {0.0}
        self._reopen()
        self._start, self._is_at_start = start, False
        try:
            for packet in self._container.demux(self._stream):
                stamp = packet.dts if self._is_stamped_in_decoding_order else packet.pts
                if stamp is not None and stamp >= start and not packet.is_discard:
                    times.add((stamp - start) * self._base)
                if len(times) > MAX_DECODED:
                    raise self.fault("too long", f"more than {MAX_DECODED:,} frames", "fewer", "cut it into parts")
        except (av.error.FFmpegError, *ERRORS_OF_FILES):
            pass  # what was read counts
        return sorted(times)


def _read_clock(text: str) -> float | None:
    """Read Matroska's ``00:01:02.500000000`` as seconds.

    >>> _read_clock("00:01:02.500000000")
    62.5
    """
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None
