"""Reads film files through PyAV: their facts, and the frames that are shown at some times.

No other module imports PyAV, which is optional. FFmpeg, which is in PyAV, gets an open file and not its name, and
only readers of plain containers, which open no other file: a playlist under the name of a film is refused. Numbers of
pixels, samples, tracks and frames are bounded before memory is taken by them. Frames are turned as a viewer shows
them; pixels that are not square stay as they are stored.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from PIL import Image

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.mp4_boxes import find_table_fault, is_mp4, read_sample_times
from minicpmv.data.records.file_kinds import HEAD_BYTES, find_kind
from minicpmv.files.plain_files import open_plain
from minicpmv.machine.installed import extra, install_command
from minicpmv.processing.films.facts import TOLERANCE, FilmFacts, is_steady, mean_rate

__all__ = ["MAX_PIXELS", "MAX_SECONDS", "VideoFile", "import_av"]

MAX_PIXELS = 36_000_000
"""Most pixels of a frame: 8K has 33 million."""
MAX_SECONDS = 24 * 3600
_MAX_DECODED = 2_000_000
"""Most frames that are decoded for the frames of one film: 18 hours at 30 a second."""
_MAX_STREAMS = 64
_MAX_RATE = 240.0
"""Frames a second that a header may state; beyond it, they are counted."""
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts"
"""None of them opens another file by itself. MPEG program streams (.mpg) are left out: their frames have no times of
their own, and those that FFmpeg makes up were a frame off in 6 of 48 tries."""
_INDEXED = ("mov", "avi")
"""Readers that know all key frames from the beginning; Matroska's does after a jump, the others never."""
_DECODERS = (
    "h264,hevc,vp8,vp9,av1,libdav1d,mpeg1video,mpeg2video,mpeg4,h263,flv,mjpeg,prores,dnxhd,msmpeg4,msmpeg4v2,wmv2"
)
_BY_PYTHON = (OSError, ValueError, OverflowError)
"""Errors of the file, which PyAV lets through, such as of a jump before its start; and of numbers too large for C."""
_SLACK = 0.5
"""Seconds by which a film may be shorter than it states: often the sound is a little longer."""
_FAR = 10.0
"""Seconds ahead to which a file without an index is searched rather than decoded."""
_REMUX = "save it again: ffmpeg -i FILM -c copy -movflags +faststart NEW.mp4"
_AGAIN = "copy or download the film again"


class VideoFile:
    """Holds an open film file, which is closed at the end of a ``with``.

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

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def facts(self) -> FilmFacts:
        """Return the facts of the film.

        The first frame is decoded, since only it tells how the film is turned. MP4, MOV and AVI list their frames in
        the header. Other files are read to their end, without decoding: their header states no times and no number,
        and the rate that it states may be any.

        Raises:
            FilmError: There is no frame, or it is too long.
        """
        shown, frame = next(self._decode(None), (0.0, None))
        if frame is None:
            raise self._fault("no frames", "no frame that can be decoded", "at least one", _AGAIN, second=shown)
        width, height = frame.width, frame.height
        size = (height, width) if frame.rotation % 180 else (width, height)
        duration, rate, num_frames = self._duration(), self._rate(), self._stream.frames or None
        frame_times = None
        if times := self._times(duration):
            num_frames = len(times)
            if rate is None or not is_steady(times, rate):
                rate = mean_rate(times) or 25.0
                frame_times = None if is_steady(times, rate) else tuple(times)
            if duration is None or duration < times[-1]:
                duration = times[-1] + 1 / rate
        assert duration is not None, "times are left open only where it is stated"
        assert rate is not None, "likewise"
        if duration > MAX_SECONDS:
            found, expected = f"a film of {duration:,.0f} seconds", f"at most {MAX_SECONDS:,} (a day)"
            raise self._fault(
                "too long", found, expected, "cut it: ffmpeg -ss START -t SECONDS -i FILM -c copy PART.mp4"
            )
        return FilmFacts(duration=duration, rate=rate, num_frames=num_frames, size=size, frame_times=frame_times)

    def frames(self, times: Sequence[float], *, is_whole: bool) -> Iterator[tuple[bool, Image.Image | None]]:
        """Yield, for each time, whether its frame is the one before, and the frame if it is not.

        Args:
            times: Seconds from the first frame, ascending.
            is_whole: As in ``read_frames``.

        Raises:
            FilmError: The film cannot be decoded up to the last time.
        """
        coming = _Coming(self, is_whole=is_whole)
        size = coming.first.width, coming.first.height
        last = None
        for time in times:
            shown, frame = coming.at(time)
            if frame is last:
                yield True, None
                continue
            last = frame
            if (frame.width, frame.height) != size:
                found = "frames of {} x {} pixels, then of {} x {} at {:.1f} s".format(
                    *size, frame.width, frame.height, shown
                )
                fix = f"save it in one size: ffmpeg -i FILM -vf scale={size[0]}:{size[1]} NEW.mp4"
                raise self._fault("size changes", found, "one size", fix, second=shown)
            yield False, _picture_of(frame)

    def _reopen(self) -> None:
        """Go to the beginning: some readers find it by no jump (MPEG-TS)."""
        self.close()
        self._container = self._open_container()
        self._stream = self._choose_stream()
        self._start: int = self._stream.start_time or 0
        self._base = float(self._stream.time_base)
        # AVI has no time of showing. What FFmpeg guesses of it goes back and forth where there are B frames.
        self._is_stamped_in_decoding_order = self._container.format.name == "avi"
        self._has_index = self._container.format.name.startswith(_INDEXED)
        self._is_at_start = True

    def _open_container(self) -> Any:
        av = import_av(self._path)
        file = self._open.enter_context(open_plain(self._path))
        head = file.read(HEAD_BYTES)
        if not head:
            raise self._fault("empty", "an empty file", "a film", _AGAIN)
        if is_mp4(head) and (fault := find_table_fault(file)):
            kind, fix = ("index missing", f"{_AGAIN}: it was cut off") if fault.is_missing else ("too large", _REMUX)
            raise self._fault(kind, fault.found, fault.expected, fix)
        file.seek(0)
        options = {
            "format_whitelist": _FORMATS,
            "codec_whitelist": _DECODERS,
            "protocol_whitelist": "none",
            "max_streams": str(_MAX_STREAMS),
            "max_pixels": str(MAX_PIXELS),
            "threads": "1",
        }
        # Titles in any encoding: before 19, PyAV fails on them unless it is told not to; 19 knows the word no longer.
        lenient = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        try:
            return self._open.enter_context(av.open(file, io_open=_open_nothing, options=options, **lenient))
        except (av.error.FFmpegError, *_BY_PYTHON) as error:
            kind = find_kind(head)
            known = isinstance(error, av.error.ArgumentError)  # what is known, and not among the formats
            found = "a kind of file that is not read as a film" if known else "data in which FFmpeg recognises no film"
            expected = "a film file (MP4, MOV, MKV, WebM, AVI, FLV, TS), GIF, WebP or APNG"
            fix = "if it is a film, save it as MP4" if known else _AGAIN
            if kind is not None:
                found = "a video that FFmpeg cannot open" if kind.name == "a video" else kind.name
            raise self._fault("not a film", found, expected, fix) from error

    def _choose_stream(self) -> Any:
        streams = self._container.streams
        covers = import_av(self._path).stream.Disposition.attached_pic
        films = [stream for stream in streams.video if not stream.disposition & covers]
        if not films:
            kinds = ", ".join(dict.fromkeys(stream.type for stream in streams)) or "nothing"
            raise self._fault(
                "no pictures", f"a file without a video track ({kinds})", "a film", "give the film itself"
            )
        if len(films) > 1:
            tracks = ", ".join(
                f"{each.codec_context.width} x {each.codec_context.height}" for each in films if each.codec_context
            )
            fix = "save the one that is meant: ffmpeg -i FILM -map 0:v:0 -c copy NEW.mp4"
            raise self._fault("several tracks", f"{len(films)} video tracks ({tracks})", "one", fix)
        stream = films[0]
        context = stream.codec_context
        if context is None or context.name not in _DECODERS.split(","):
            name = "of a kind that this FFmpeg does not know" if context is None else context.name
            fix = "save it as H.264: ffmpeg -i FILM -c:v libx264 NEW.mp4"
            raise self._fault("not a film", f"a video track {name}", f"one of {_DECODERS}", fix)
        if context.width * context.height > MAX_PIXELS:
            found, expected = f"frames of {context.width} x {context.height} pixels", f"at most {MAX_PIXELS:,} pixels"
            raise self._fault("too large", found, expected, "shrink it: ffmpeg -i FILM -vf scale=1920:-2 NEW.mp4")
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream

    def _duration(self) -> float | None:
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

    def _rate(self) -> float | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate and 0 < rate <= _MAX_RATE else None

    def _times(self, stated: float | None) -> list[float] | None:
        """Return when each frame is shown, in seconds from the first; None if only the header tells.

        Args:
            stated: Seconds that the film has according to its header. A file that holds less was perhaps cut off, and
                is then believed its header, so that decoding misses what is not there.
        """
        rate = self._rate()
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
        is_cut = stated is not None and rate is not None and abs(stated - times[-1] - 1 / rate) > _SLACK
        return None if is_cut else times

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
                if len(times) > _MAX_DECODED:
                    raise self._fault("too long", f"more than {_MAX_DECODED:,} frames", "fewer", "cut it into parts")
        except (av.error.FFmpegError, *_BY_PYTHON):
            pass  # what was read counts
        return sorted(times)

    def _decode(self, seconds: float | None) -> Iterator[tuple[float, Any]]:
        """Yield frames with their seconds from a time on, or somewhat before it; None: from the beginning.

        A sign of damage is yielded as None in place of a frame, but not before the first frame: a recording may begin
        between two key frames.
        """
        av = import_av(self._path)
        if seconds is None and not self._is_at_start:
            self._reopen()
        self._is_at_start = False
        now, each = max(0.0, seconds or 0.0), 1 / (self._rate() or 25.0)
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
        except (av.error.FFmpegError, *_BY_PYTHON) as error:
            found = f"damage at {now:.1f} s ({type(error).__name__}: {error})"
            raise self._fault("damaged", found, "a film", _AGAIN, now) from error

    def _key_before(self, seconds: float) -> float | None:
        """Return when the last key frame up to a time is, in decoding order, if the file has an index."""
        entries = self._stream.index_entries
        number = entries.search_timestamp(self._start + int(seconds / self._base), backward=True)
        return None if number < 0 else (entries[number].timestamp - self._start) * self._base

    def _fault(self, kind: Any, found: str, expected: str, fix: str, second: float | None = None) -> FilmError:
        return FilmError(kind, where=self._path, found=found, expected=expected, fix=fix, second=second)


class _Coming:
    """Walks through a film: forward while that is near, by a jump to a key frame where that saves decoding.

    It begins with the first frame in any case, whose size all others must have.
    """

    def __init__(self, film: VideoFile, *, is_whole: bool) -> None:
        self._film, self._is_whole = film, is_whole
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
        key = self._film._key_before(time)
        return (key is not None and key > self._ahead[0]) or (
            not self._film._has_index and time - self._ahead[0] > _FAR
        )

    def _jump(self, time: float) -> None:
        """Go to the last key frame from which the time can be reached, or to the beginning."""
        back = 0.0
        while True:
            start = time - back
            self._frames = self._film._decode(start if start > 0 else None)
            first = self._next()
            if first is not None and (start <= 0 or first[0] <= time + TOLERANCE):
                break
            if start <= 0:
                raise self._film._fault("no frames", "no frame that can be decoded", "at least one", _AGAIN, 0.0)
            back = max(1.0, 2 * back)
        self._shown, self._ahead = first, self._next()

    def _next(self) -> tuple[float, Any] | None:
        """Return the next frame in order of time; None at the end."""
        for second, frame in self._frames:
            if frame is None:
                if self._is_whole:
                    found = f"damage at {second:.1f} s"
                    raise self._film._fault("damaged", found, "a film without damage", _AGAIN, second)
                continue
            self._decoded += 1
            if self._decoded > _MAX_DECODED:
                found = f"more than {_MAX_DECODED:,} frames to decode"
                raise self._film._fault("too long", found, "fewer", "cut it into parts", second)
            return second, frame
        return None

    def _check_end(self, time: float) -> None:
        second, frame = self._shown
        rate = self._film._rate() or 25.0
        end = second + (float(frame.duration * self._film._base) if frame.duration else 1 / rate)
        if time > end + _SLACK:
            stated = self._film._duration() or time
            found = f"frames up to {end:.1f} of {stated:.1f} s"
            fix = f"{_AGAIN} if it was cut off; if only its sound is longer, ask for an end of {end:.2f} s"
            raise self._film._fault("ends early", found, f"the frame at {time:.1f} s", fix, end)


def _picture_of(frame: Any) -> Image.Image:
    turned = {
        90: Image.Transpose.ROTATE_90,
        180: Image.Transpose.ROTATE_180,
        270: Image.Transpose.ROTATE_270,
    }.get(frame.rotation % 360)
    image: Image.Image = frame.to_image()
    return image if turned is None else image.transpose(turned)


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


def _open_nothing(url: str, *_: object) -> Any:
    """Refuse to open a file or address that a film names."""
    raise PermissionError(f"a film may name no other file, and names {url!r:.100}")


def import_av(path: str) -> Any:
    """Return PyAV's module, for a film that is read or written.

    Raises:
        FilmError: It is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise FilmError(
            "not installed",
            where=path,
            found="a film but no PyAV, which reads and writes films",
            expected="PyAV",
            fix=install_command(extra("films")),
        ) from error
