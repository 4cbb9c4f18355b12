"""Judges what a record says of its films: forms, paths, and what is asked of their frames. No file is opened here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from minicpmv.data.checks.placeholders import FILM
from minicpmv.data.records.films import is_film_struct, read_film
from minicpmv.data.records.formats.containers.json_list import RepeatedKeys
from minicpmv.data.records.record import RawRecord, quote
from minicpmv.errors import Problem
from minicpmv.processing.films.request import find_request_fault
from minicpmv.releases.table import Version

__all__ = ["check_film_value", "check_films_of_version", "film_places"]

_EXPECTED = 'a path, a list of the paths of its frames, or an object such as {"video": path, "fps": 2}'
_FIX = "write the path of the film, or leave 'video' out of a record without one"
_ADDRESS = re.compile(r"(?:https?|s3|ftp|gs|hdfs|oss|file|rtsp):")


def film_places(value: object) -> list[tuple[str, object]]:
    """Return the field of each film of a ``video`` value, and the film in our form."""
    if not value:
        return []
    if isinstance(value, list):
        return [(f"video[{number}]", film) for number, film in enumerate(cast("list[object]", value))]
    if isinstance(value, dict) and not is_film_struct(cast("object", value)):
        return [(f"video[{key!r}]", film) for key, film in cast("dict[str, object]", value).items()]
    return [("video", value)]


def check_film_value(record: RawRecord, value: object) -> Iterator[Problem]:
    """Yield a problem unless the ``video`` value has one of its forms; without a problem it can be parsed."""
    if isinstance(value, dict) and not is_film_struct(cast("object", value)):
        mapping = cast("dict[str, object]", value)
        allowed = FILM.plain if len(mapping) == 1 else ()
        for key in mapping:
            if key not in allowed and not FILM.key.fullmatch(key):
                fix = "rename the key here and in the text"
                yield Problem("D131", record.where("video"), f"the key {key!r}", "keys such as '<video_00>'", fix)
        for key in mapping.repeated if isinstance(mapping, RepeatedKeys) else ():
            found, fix = f"the key {key!r} more than once", "remove or rename one"
            yield Problem("D107", record.where("video"), found, "each key once", fix)
    for field, film in film_places(value):
        yield from _check_film(record, field, film)


def _check_film(record: RawRecord, field: str, film: object) -> Iterator[Problem]:
    source = cast("dict[str, object]", film).get("video") if isinstance(film, dict) else film
    if source is None and isinstance(film, dict):
        found = f"no path next to {', '.join(map(repr, sorted(cast('dict[str, object]', film).keys() - {'video'})))}"
        yield Problem("D130", record.where(field), found, _EXPECTED, 'add the film\'s path to the object, as "video"')
        return
    paths = cast("list[object]", source) if isinstance(source, list) and source else [source]
    for path in paths:
        where = record.where(field)
        if isinstance(path, bytes) or (isinstance(path, str) and path.startswith("data:")):
            fix = "save the film as a file and write its path"
            yield Problem("D130", where, "a film inside the data", _EXPECTED, fix)
            return
        if not isinstance(path, str) or not path.strip():
            yield Problem("D130", where, quote(path), _EXPECTED, _FIX)
            return
        if _ADDRESS.match(path):
            fix = "save the film as a file and write its path"
            yield Problem("D132", where, f"an address: {quote(path)}", "the path of a file", fix)
            return
    if fault := find_request_fault(read_film(film).request):
        yield Problem("D144", record.where(f"{field}.{fault.field}"), fault.found, fault.expected, fault.fix)


def check_films_of_version(record: RawRecord, value: object, version: Version) -> Iterator[Problem]:
    """Yield a problem if a record has a film and the release takes none."""
    if value and version.reading.films is None:
        found, expected = "a film", f"none: {version.model} takes none, because {version.reading.no_films}"
        fix = "leave the record out, name frames as images, or take a release that reads films (2.6 and later)"
        yield Problem("D153", record.where("video"), found, expected, fix)
