"""Decodes one film that somebody sent, as a program of its own: ``python -m minicpmv.serving.requests.film_child``.

A decoder is much code in C, and a film may be made to crash it or to keep it busy. Limits of the system bound this
program's time and memory, and what becomes of it does not become of the server.

It reads a line of JSON, ``{"path": text, "request": {...}, "seconds": number}``, and writes a line with the film's
facts. A second line, ``{"times": [...]}``, asks for frames: for each new one a line ``{"size": [width, height]}`` and
its RGB bytes, at the end ``{"order": [...]}``, which frame is shown at each time. An ``{"error": {...}}`` may take the
place of any line.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from PIL import Image

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import inspect_film, read_frames
from minicpmv.data.records.record import Film
from minicpmv.files.posix import resource
from minicpmv.processing.films.request import FilmRequest

__all__ = ["main"]

_BYTES = 4 * 2**30
"""Of address space: frames of 36 megapixels, of which a decoder holds up to 17, fit into it."""


def main() -> None:
    """Answer both questions; without the second, end."""
    try:
        given = json.loads(sys.stdin.readline())
        _limit(given["seconds"])
        film = Film(source=given["path"], request=FilmRequest.of_fields(given["request"]))
        _write(asdict(inspect_film(film)))
        if asked := sys.stdin.readline():
            read: Any = read_frames  # what is kept may be anything
            writer = _Writer()
            order = read(film, json.loads(asked)["times"], convert=writer.write)
            _write({"order": order})
    except FilmError as error:
        names = ("kind", "found", "expected", "fix", "second")
        _write({"error": {name: getattr(error, name) for name in names}})
    except MemoryError:
        fault = {
            "kind": "too large",
            "found": "a film that takes more than 4 GiB of memory",
            "expected": "a smaller one",
        }
        _write({"error": fault | {"fix": "shrink it", "second": None}})


class _Writer:
    def __init__(self) -> None:
        self._number = -1

    def write(self, frame: Image.Image) -> int:
        """Write a frame, and return its number."""
        self._number += 1
        _write({"size": frame.size})
        sys.stdout.buffer.write(frame.tobytes())
        return self._number


def _limit(seconds: int) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _write(line: Any) -> None:
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
