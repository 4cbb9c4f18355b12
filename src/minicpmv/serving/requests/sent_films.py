"""Opens films that somebody sent: their decoder runs in a process of its own, with limits (``film_child``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

from PIL import Image

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.video.container import MAX_PIXELS
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.request import FilmRequest

__all__ = ["SentFilm", "UploadedFilm", "open_sent_film"]

_MAX_LINE = 2**26
"""Bytes. A film of varying rate comes with the times of all its frames, at most 2 million of 20 bytes."""


class SentFilm:
    """A film whose header has been read, in another process; its frames can be read once."""

    def __init__(self, child: _Child, facts: FilmFacts, request: FilmRequest) -> None:
        self._child = child
        self.facts, self.request = facts, request

    def read(self, times: Sequence[float], convert: Callable[[Any], Any]) -> list[Any]:
        """Decode the frames that are shown at some times, in seconds, and return what ``convert`` makes of each.

        Raises:
            FilmError: The film cannot be decoded within the limits.
        """
        self._child.ask({"times": list(times)})
        kept: list[Any] = []
        while "order" not in (line := self._child.line()):
            kept.append(convert(self._child.frame(tuple(line["size"]))))
        return [kept[number] for number in line["order"]]


@dataclass(frozen=True, slots=True)
class UploadedFilm:
    """A film whose file stays, so that it can be read again: each time in a process of its own."""

    path: str
    facts: FilmFacts
    request: FilmRequest
    seconds: float
    """Time for each reading."""

    @classmethod
    def open(cls, path: str, request: FilmRequest, *, seconds: float) -> UploadedFilm:
        """Read a film's header.

        Raises:
            FilmError: As for ``open_sent_film``.
        """
        with open_sent_film(path, request, where=_name_of(path), seconds=seconds) as film:
            return cls(path, film.facts, request, seconds)

    def read(self, times: Sequence[float], convert: Callable[[Any], Any]) -> list[Any]:
        """Decode frames, as ``SentFilm`` does.

        Raises:
            FilmError: As there.
        """
        with open_sent_film(self.path, self.request, where=_name_of(self.path), seconds=self.seconds) as film:
            return film.read(times, convert)


def _name_of(path: str) -> str:
    return f"film {os.path.basename(path)}"


@contextmanager
def open_sent_film(path: str, request: FilmRequest, *, where: str, seconds: float) -> Iterator[SentFilm]:
    """Open a film, in a ``with`` statement at whose end its process ends.

    Args:
        path: Its file.
        request: What is asked of its frames.
        where: What to call it in an error, in place of the path.
        seconds: Time for all of it.

    Raises:
        FilmError: It cannot be used, or its decoder runs out of time or memory, or dies.
    """
    child = _Child(where, seconds)
    try:
        child.ask({"path": os.path.abspath(path), "request": asdict(request), "seconds": max(1, int(seconds))})
        line = child.line()
        times = line.get("frame_times")
        facts = FilmFacts(**line | {"size": tuple(line["size"]), "frame_times": times and tuple(times)})
        yield SentFilm(child, facts, request)
    finally:
        child.end()


class _Child:
    def __init__(self, where: str, seconds: float) -> None:
        self._where, self._seconds = where, seconds
        self._is_late = False
        path = os.pathsep.join(folder for folder in sys.path if folder)
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-m", "minicpmv.serving.requests.film_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.path.dirname(sys.executable),  # no folder of the user's, whose modules would be found first
            env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None, "a pipe"
        assert self._process.stdout is not None, "a pipe"
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self._timer = threading.Timer(seconds, self._stop)
        self._timer.daemon = True
        self._timer.start()

    def ask(self, question: Any) -> None:
        """Send a line; a child that is dead says so when its answer is read."""
        with suppress(BrokenPipeError):
            self._in.write(json.dumps(question).encode() + b"\n")
            self._in.flush()

    def line(self) -> dict[str, Any]:
        """Receive a line."""
        written = self._out.readline(_MAX_LINE)
        if not written.endswith(b"\n"):
            raise self._dead()
        line: dict[str, Any] = json.loads(written)
        if "error" in line:
            raise FilmError(where=self._where, **line["error"])
        return line

    def frame(self, size: tuple[int, int]) -> Image.Image:
        """Receive a frame."""
        width, height = size
        if width < 1 or height < 1 or width * height > MAX_PIXELS:
            raise self._dead()
        content = self._out.read(3 * width * height)
        if len(content) != 3 * width * height:
            raise self._dead()
        return Image.frombytes("RGB", size, content)

    def end(self) -> None:
        """End the process, whatever it does."""
        self._timer.cancel()
        self._process.kill()
        for pipe in (self._in, self._out):
            with suppress(BrokenPipeError):  # of what was not sent
                pipe.close()
        self._process.wait()

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()

    def _dead(self) -> FilmError:
        if self._is_late:
            found, expected = "a film that takes too long to decode", f"one that takes at most {self._seconds:.0f} s"
            fix = "ask for a part of it (start, end), or shrink it: ffmpeg -i FILM -vf scale=640:-2 NEW.mp4"
            return FilmError("too long", where=self._where, found=found, expected=expected, fix=fix)
        found = "a film on which its decoder failed, or which takes too much time or memory"
        return FilmError(
            "damaged", where=self._where, found=found, expected="a film", fix="save it again: ffmpeg -i FILM NEW.mp4"
        )
