"""Judges neighbouring records and opens their images and films, and joins what several processes have found.

The caller decides what becomes of the findings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from minicpmv.data.checks.checking import RecordChecker, check_image_value
from minicpmv.data.checks.duplicate_ids import IdRegister
from minicpmv.data.checks.empty_cells import EmptyCells
from minicpmv.data.checks.film_values import check_film_value, film_places
from minicpmv.data.checks.placeholders import parse_image_field
from minicpmv.data.checks.unread_keys import UnreadKeys
from minicpmv.data.media.film_facts import FilmFactsList, FilmReader, FilmUse
from minicpmv.data.media.image_faults import ImageUse
from minicpmv.data.media.image_sizes import ImageSizes, SizeReader
from minicpmv.data.records.films import read_film
from minicpmv.data.records.folders import data_folder
from minicpmv.data.records.grounding import check_boxes
from minicpmv.data.records.inline_images import is_embedded
from minicpmv.data.records.record import RawRecord
from minicpmv.data.sharing import Sharing
from minicpmv.errors import Problem

__all__ = ["ImageRoots", "Part", "film_uses", "image_uses", "look_at", "objects_of", "open_as"]


@dataclass(slots=True)
class Part:
    """Collects what is found in neighbouring records; those of several processes are joined."""

    unread: UnreadKeys
    reader: SizeReader
    film_reader: FilmReader
    ids: IdRegister = field(default_factory=IdRegister)
    empty: EmptyCells = field(default_factory=EmptyCells)
    sizes: ImageSizes = field(default_factory=ImageSizes)
    films: FilmFactsList = field(default_factory=FilmFactsList)
    problems: list[tuple[int, Problem]] = field(default_factory=list[tuple[int, Problem]])
    unreadable: list[int] = field(default_factory=list[int])

    def join(self, sharing: Sharing) -> None:
        """Replace what is of this process by what is of all, but for ids, which are compared where they are."""
        if sharing.number == 1:
            return
        self.sizes, self.films = self.sizes.joined(sharing), self.films.joined(sharing)
        mine = (self.problems, self.unreadable, self.unread, self.reader.faults, self.film_reader.findings, self.empty)
        found = sharing.gather(mine)
        self.problems = [each for part in found for each in part[0]]
        self.unreadable = [each for part in found for each in part[1]]
        self.unread, self.reader, self.film_reader, self.empty = found[0][2], SizeReader(), FilmReader(), found[0][5]
        for part in found[1:]:
            self.unread.join(part[2])
            self.empty.join(part[5])
        for part in found:
            self.reader.add_faults(part[3])
            self.film_reader.add_findings(part[4])


def look_at(raw: Sequence[RawRecord], which: range, part: Part, checker: RecordChecker, roots: ImageRoots) -> None:
    """Judge records, and open their images and films together.

    Args:
        raw: All records.
        which: Those to look at, neighbours.
        part: Receives what is found.
        checker: Judges them.
        roots: Where their relative paths start.
    """
    uses: list[list[ImageUse]] = []
    uses_of_films: list[list[FilmUse]] = []
    with_boxes: dict[int, RawRecord] = {}
    for position in which:
        record, num_problems = raw[position], len(part.problems)
        root = roots.of(record)
        part.problems += [(position, problem) for problem in checker.check(record, root)]
        part.ids.add(record, position)
        part.empty.add(record, position)
        if record.unread or record.reading:
            part.unread.add(record, position, root)
        uses.append(list(image_uses(record, root, record=position)))
        uses_of_films.append(list(film_uses(record, root, record=position)))
        if len(part.problems) == num_problems and objects_of(record):
            with_boxes[position] = record
    found = iter(part.reader.read([use for of_record in uses for use in of_record]))
    found_films = iter(part.film_reader.read([use for of_record in uses_of_films for use in of_record]))
    for position, of_record, of_films in zip(which, uses, uses_of_films, strict=True):
        known = [next(found) for _ in of_record]
        known_films = [next(found_films) for _ in of_films]
        sizes = [size for size in known if size is not None]
        part.sizes.append(sizes)
        part.films.append([facts for facts in known_films if facts is not None])
        if None in known or None in known_films:
            part.unreadable.append(position)
        elif record := with_boxes.get(position):
            part.problems += [(position, each) for each in check_boxes(record, objects_of(record), sizes)]


def objects_of(record: RawRecord) -> dict[str, object]:
    """Return the names and boxes that a record holds apart from its text."""
    fields = cast("dict[str, object]", record.value) if isinstance(record.value, dict) else {}
    objects = fields.get("objects")
    return cast("dict[str, object]", objects) if isinstance(objects, dict) else {}


class ImageRoots:
    """Folders at which relative image paths start: the one given, or that of each data file.

    A file's folder is looked up once; on a network's disk that takes long.
    """

    def __init__(self, image_root: str | os.PathLike[str] | None) -> None:
        self._given = None if image_root is None else os.fspath(image_root)
        self._found: dict[str, str] = {}

    def of(self, raw: RawRecord) -> str:
        """Return the folder for a record."""
        if self._given is not None:
            return self._given
        if raw.source not in self._found:
            self._found[raw.source] = data_folder(raw.source)
        return self._found[raw.source]


def image_uses(raw: RawRecord, root: str, *, record: int) -> Iterator[ImageUse]:
    """Yield each image of a record, or nothing if the record is not sound enough to tell.

    Args:
        raw: As read.
        root: Folder at which its relative paths start.
        record: What stands for the record in the uses.
    """
    if raw.faults or not isinstance(raw.value, dict):
        return
    value = cast("dict[str, object]", raw.value).get("image")
    if any(True for _ in check_image_value(raw, value)):
        return
    field = parse_image_field(value)
    for number, source in enumerate(field.paths):
        if isinstance(value, dict):
            name = f"image[{list(cast('dict[str, object]', value))[number]!r}]"
        else:
            name = f"image[{number}]" if isinstance(value, list) else "image"
        yield ImageUse(
            record=record,
            where=raw.where(name),
            written="" if is_embedded(source) else cast("str", source),
            path=open_as(root, source),
            root=root,
        )


def film_uses(raw: RawRecord, root: str, *, record: int) -> Iterator[FilmUse]:
    """Yield each film of a record, or nothing if the record is not sound enough to tell.

    Args:
        raw: As read.
        root: Folder at which its relative paths start.
        record: What stands for the record in the uses.
    """
    if raw.faults or not isinstance(raw.value, dict):
        return
    value = cast("dict[str, object]", raw.value).get("video")
    if not value or any(True for _ in check_film_value(raw, value)):
        return
    for name, film in film_places(value):
        yield FilmUse(record=record, where=raw.where(name), film=read_film(film, root))


def open_as(root: str, source: str | bytes) -> str | bytes:
    """Return what is opened for an image value: an embedded image as it is, or the path of its file."""
    return source if is_embedded(source) else str(Path(root, cast("str", source)))
