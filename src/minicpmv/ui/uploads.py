"""Checks pictures and films that a visitor has sent before the model gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from minicpmv.data.media.film_faults import FilmError
from minicpmv.errors import ImageError
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.films.shown import OpenedFilm
from minicpmv.processing.pictures.sent_images import measure_sent_image
from minicpmv.serving.requests.sent_films import UploadedFilm

__all__ = ["check_uploads", "is_film", "paths_of"]

_FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".ts", ".3gp")
"""Endings of films; GIF and WebP are pictures here, as everywhere on the page."""
_MAX_FILMS = 4
_MAX_FRAMES = 128
"""Of all films of a question together."""
_MAX_SECONDS = 600.0
"""Of a film."""
_DECODING_SECONDS = 60.0


def check_uploads(
    files: Sequence[str], *, max_pixels: int, requests: Mapping[str, FilmRequest] | None = None
) -> tuple[list[str], list[UploadedFilm]]:
    """Return a question's pictures, and its films with their headers read; refuse other files and what is too large.

    Args:
        files: Files of the question.
        max_pixels: Most pixels of its pictures together.
        requests: Which frames are asked of a film, by its file; of others, those that the release takes by itself.

    Raises:
        ImageError: A file is not a picture, or they are too large.
        FilmError: A film cannot be used, or is too long.
    """
    images = [file for file in files if not is_film(file)]
    left = max_pixels
    for file in map(Path, images):
        width, height = measure_sent_image(file.read_bytes(), where=f"image {file.name}")
        left -= width * height
        if left < 0:
            raise ImageError(
                where=f"image {file.name}",
                found=f"{width} x {height} pixels",
                expected=f"at most {max_pixels} pixels in all images of a question",
                fix="shrink the images; the model sees at most a few million pixels of each anyway",
            )
    return images, _open_films([file for file in files if is_film(file)], requests or {})


def paths_of(films: Sequence[OpenedFilm]) -> tuple[str, ...]:
    """Return the files of films that were uploaded."""
    return tuple(film.path for film in films if isinstance(film, UploadedFilm))


def is_film(file: str) -> bool:
    """Return whether a file is a film by its name."""
    return file.lower().endswith(_FILMS)


def _open_films(files: Sequence[str], requests: Mapping[str, FilmRequest]) -> list[UploadedFilm]:
    if len(files) > _MAX_FILMS:
        found, expected = f"{len(files)} films", f"at most {_MAX_FILMS} in a question"
        raise FilmError("too large", where="films", found=found, expected=expected, fix="ask about fewer at once")
    films: list[UploadedFilm] = []
    for file in files:
        usual = FilmRequest() if len(files) == 1 else FilmRequest(max_frames=_MAX_FRAMES // len(files))
        film = UploadedFilm.open(file, requests.get(file, usual), seconds=_DECODING_SECONDS)
        if film.facts.duration > _MAX_SECONDS:
            raise FilmError(
                "too long",
                where=f"film {Path(file).name}",
                found=f"{film.facts.duration:,.0f} seconds",
                expected=f"at most {_MAX_SECONDS:,.0f}",
                fix="upload the part that matters: ffmpeg -ss START -t SECONDS -i FILM -c copy PART.mp4",
            )
        films.append(film)
    return films
