"""Opens the pictures and films of a record for its sample; a fault names the record and the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from minicpmv.data.media.film_facts import files_of
from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.data.media.opened_films import ReadFilm, digest_film
from minicpmv.data.records.inline_images import describe_image, is_embedded, read_embedded
from minicpmv.data.records.record import Film, Record
from minicpmv.data.samples.cached_features import picture_size
from minicpmv.errors import DataError, ImageError, Problem
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.films.shown import Convert, ShownFilm
from minicpmv.processing.pictures.patches import load_image

__all__ = ["ShownMedia", "load_picture"]


class ShownMedia:
    """The pictures and films that the model sees of a record. Files of pictures are read at once, others on demand.

    Args:
        record: The record.
        films: Plans of its films, with the frames that fit.
        digests: Remembers what each file that was read held; None: nothing does.

    Raises:
        DataError: A picture's file cannot be read any more (D202).
    """

    def __init__(self, record: Record, films: Sequence[FilmPlan], digests: PictureDigests | None) -> None:
        self.record = record
        self.films = films
        self._digests = digests
        self._contents = [self._read(position) for position in range(len(record.images))]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of each picture in pixels, from its header.

        Raises:
            DataError: A picture is damaged (D202).
        """
        return [_size(self.record, position, content) for position, content in enumerate(self._contents)]

    def decode(self) -> list[Image]:
        """Decode the pictures.

        Raises:
            DataError: A picture is damaged (D202).
        """
        return [load_picture(self.record, position, content) for position, content in enumerate(self._contents)]

    def show(self) -> list[ShownFilm]:
        """Return the films, which are decoded when they are read, each frame kept as the patches that it is cut into.

        Reading one raises ``DataError`` if it is damaged (D202).
        """
        return [self._show(position, plan) for position, plan in enumerate(self.films)]

    def name_each(self) -> list[str]:
        """Name each picture, and then each frame, by content: what its features depend on besides the model.

        Raises:
            DataError: A film cannot be read any more (D202).
        """
        names = [hashlib.sha256(content).hexdigest() for content in self._contents]
        for film, plan in zip(self.record.films, self.films, strict=True):
            digest = self._digest(film)
            names += [f"{digest} {time!r}" for time in plan.times]
        return names

    def name_all(self) -> list[bytes]:
        """Return what identifies all that the model sees: contents of pictures, and of films their digests and plans.

        Raises:
            DataError: A film cannot be read any more (D202).
        """
        digests = [self._digest(film) for film in self.record.films]
        films = [f"{digest} {plan}".encode() for digest, plan in zip(digests, self.films, strict=True)]
        return [*self._contents, *films]

    def _read(self, position: int) -> bytes:
        """Return the bytes of an image's file, and remember what they are."""
        content, image = _read(self.record, position), self.record.images[position]
        if self._digests is not None and isinstance(image, str) and not is_embedded(image):
            self._digests.note(image, content)
        return content

    def _show(self, position: int, plan: FilmPlan) -> ShownFilm:
        film, facts = self.record.films[position], self.record.film_facts
        assert facts is not None, "planned"
        opened = ReadFilm(film, facts[position])

        def read(convert: Convert) -> Sequence[Any]:
            try:
                return opened.read(plan.times, convert)
            except FilmError as error:
                found = f"{error.found} in {error.where!r}, whose header looked sound"
                where = self.record.where(f"film {position}")
                raise DataError([Problem("D202", where, found, error.expected, error.fix)]) from error

        if self._digests is not None:
            self._digests.note_files(files_of(film))
        return ShownFilm(plan, read)

    def _digest(self, film: Film) -> str:
        try:
            if self._digests is not None:
                self._digests.note_files(files_of(film))
            return digest_film(film)
        except OSError as error:
            found, fix = f"{film.name!r}, which cannot be read ({error.strerror})", "leave films alone during a run"
            raise DataError([Problem("D202", self.record.where("video"), found, "the film as it was", fix)]) from error


def load_picture(record: Record, position: int, content: bytes | None = None) -> Image:
    """Decode an image, from the bytes of its file if they are at hand.

    Raises:
        DataError: It is damaged (D202).
    """
    try:
        return load_image(record.images[position] if content is None else content)
    except ImageError as error:
        raise _spoilt(record, position, error) from error


def _read(record: Record, position: int) -> bytes:
    """Return the bytes of an image's file."""
    image = record.images[position]
    try:
        return read_embedded(image) if is_embedded(image) else Path(os.fsdecode(image)).read_bytes()
    except OSError:
        load_picture(record, position)  # words the fault
        raise
    except ImageError as error:
        raise _spoilt(record, position, error) from error


def _size(record: Record, position: int, content: bytes) -> tuple[int, int]:
    """Read (width, height) from an image's header."""
    size = picture_size(content)
    # Decoding words the fault, if it is one.
    return load_picture(record, position, content).size if size is None else size


def _spoilt(record: Record, position: int, error: ImageError) -> DataError:
    name = describe_image(record.images[position])
    found = f"{error.found} in {name}, whose header and end looked sound"
    return DataError([Problem("D202", record.where(f"image {position}"), found, error.expected, error.fix)])
