"""Defines the options for films that are talked about, opens the films, and says which frames the model is shown."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from minicpmv.cli.model_options import positive_int
from minicpmv.errors import UsageError

if TYPE_CHECKING:  # for annotations only: importing them would load torch before any option is read
    from minicpmv.data.media.opened_films import ReadFilm
    from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["add_film_options", "check_film_options", "check_release", "film_opener", "name_frames"]

_NEEDS_VIDEO = ("video_fps", "max_frames", "start", "end")


def add_film_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--video``, and what is asked of the frames of all films."""
    add = parser.add_argument
    add(
        "--video",
        action="append",
        default=[],
        metavar="FILE",
        help="film, animation or folder of frames to show (2.6 and later); may be repeated. The next four are for all",
    )
    add("--video-fps", type=float, metavar="F", help="frames a second to show (default: as the model was trained)")
    add("--max-frames", type=positive_int, metavar="N", help="most frames to show of a film (default: likewise)")
    add("--start", type=float, metavar="S", help="second at which films begin (default: 0)")
    add("--end", type=float, metavar="S", help="second at which films end (default: their own end)")


def check_film_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the command if an option is about films and there is none, and none can come: a question is answered once."""
    for name in _NEEDS_VIDEO:
        if getattr(options, name) is not None and options.question is not None and not options.video:
            flag = f"--{name.replace('_', '-')}"
            parser.error(f"{flag}: found without --video, expected a film\n  fix: add --video FILE, or remove {flag}")


def film_opener(options: argparse.Namespace) -> Callable[[str], ReadFilm]:
    """Return what opens a film with the frames that the options ask for."""
    from minicpmv.data.media.opened_films import open_film

    asked = {"fps": options.video_fps, "max_frames": options.max_frames, "start": options.start, "end": options.end}
    return lambda path: open_film(path, **asked)


def check_release(model: str) -> None:
    """Make sure that a model's release takes films, before its weights are loaded.

    Raises:
        UsageError: It does not.
    """
    from minicpmv.inference.loading import find_version

    version = find_version(model)
    if version.reading.films is None:
        raise UsageError(
            f"--video: found a film for {version.model}, expected none, because {version.reading.no_films}\n"
            "  fix: take a release that does (2.6 and later)"
        )


def name_frames(processor: MiniCPMVProcessor, films: Sequence[ReadFilm]) -> list[str]:
    """Return a line for each film: how many frames the model is shown, and when; and what it does not have."""
    from minicpmv.processing.films.plan import word_times
    from minicpmv.processing.films.request import find_request_oddity
    from minicpmv.wording import counted

    lines: list[str] = []
    for film in films:
        times, name = processor.plan_film(film.facts, film.request).times, film.film.name
        lines.append(f"({name}: {counted(len(times), 'frame')} of {film.facts.duration:.4g} s, at {word_times(times)})")
        if odd := find_request_oddity(film.request, film.facts):
            lines.append(f"notice: {name}: {odd.field}: found {odd.found}, expected {odd.expected}")
    return lines
