"""Reads film files: their facts, and the frames that are shown at some times.

Frames are turned as a viewer shows them; pixels that are not square stay as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from minicpmv.data.media.video.container import AGAIN
from minicpmv.data.media.video.track import Track
from minicpmv.data.media.video.walk import Walk
from minicpmv.processing.films.facts import FilmFacts, is_steady, mean_rate

__all__ = ["MAX_SECONDS", "VideoFile"]

MAX_SECONDS = 24 * 3600


class VideoFile:
    """Holds an open film file, which is closed at the end of a ``with``.

    Args:
        path: The file.

    Raises:
        FilmError: It is no film that can be used, as far as its header tells.
    """

    def __init__(self, path: str) -> None:
        self._track = Track(path)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._track.close()

    def facts(self) -> FilmFacts:
        """Return the facts of the film.

        The first frame is decoded, since only it tells how the film is turned. MP4, MOV and AVI list their frames in
        the header. Other files are read to their end, without decoding: their header states no times and no number,
        and the rate that it states may be any.

        Raises:
            FilmError: There is no frame, or it is too long.
        """
        shown, frame = next(self._track.decode(None), (0.0, None))
        if frame is None:
            raise self._track.fault("no frames", "no frame that can be decoded", "at least one", AGAIN, second=shown)
        width, height = frame.width, frame.height
        size = (height, width) if frame.rotation % 180 else (width, height)
        duration, rate, num_frames = self._track.duration(), self._track.rate(), self._track.num_frames
        frame_times = None
        if times := self._track.times(duration):
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
            raise self._track.fault(
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
        coming = Walk(self._track, is_whole=is_whole)
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
                raise self._track.fault("size changes", found, "one size", fix, second=shown)
            yield False, _picture_of(frame)


def _picture_of(frame: Any) -> Image.Image:
    turned = {
        90: Image.Transpose.ROTATE_90,
        180: Image.Transpose.ROTATE_180,
        270: Image.Transpose.ROTATE_270,
    }.get(frame.rotation % 360)
    image: Image.Image = frame.to_image()
    return image if turned is None else image.transpose(turned)
