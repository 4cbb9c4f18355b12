"""Reads what a record says of its films: where each is, and which of its frames are asked for.

A film is a path, a list of the paths of its frames, or an object that holds one of these together with what is
asked. Nothing is opened here, and nothing is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from minicpmv.data.records.formats.containers.json_list import mark_like
from minicpmv.data.records.formats.images import path_of
from minicpmv.data.records.record import Film, Unread
from minicpmv.processing.films.request import REQUEST_KEYS, FilmRequest

__all__ = ["is_film_struct", "plain_film", "plain_films", "read_film"]

_SOURCE_KEYS = ("video", "path", "url", "bytes")
"""Keys of an object that hold the film; the first that is not null counts."""
_STILL = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm")
"""Endings of pictures that are no animations: a list of nothing else is one film, the pictures its frames."""

Report = Callable[[Unread], None]


def plain_films(value: object, place: str, report: Report) -> object:
    """Convert the value of a record's ``video`` key to our form.

    Args:
        value: A film, a list of them, or a dict of placeholders; anything else is kept, for ``checks`` to report.
        place: The field that holds it.
        report: Receives the keys of objects that are not read.
    """
    if isinstance(value, list):
        entries = cast("list[object]", value)
        if entries and all(isinstance(entry, str) and entry.lower().endswith(_STILL) for entry in entries):
            return {"video": entries}
        return [
            plain_film(entry, f"{place}[{number}]", report) for number, entry in enumerate(entries) if entry is not None
        ]
    if isinstance(value, dict) and not is_film_struct(value):
        mapping = cast("dict[str, object]", value)
        made = {
            key: plain_film(entry, f"{place}[{key!r}]", report) for key, entry in mapping.items() if entry is not None
        }
        return mark_like(mapping, made)
    return plain_film(value, place, report)


def plain_film(value: object, place: str, report: Report) -> object:
    """Convert one film to our form: a path, a list of paths, or an object of ``video`` and what is asked of it."""
    if isinstance(value, str):
        return path_of(value)
    if not is_film_struct(value):
        return value
    struct = {key: entry for key, entry in cast("dict[str, object]", value).items() if entry is not None}
    source = next((key for key in _SOURCE_KEYS if key in struct), "video")
    asked = {key: entry for key, entry in struct.items() if key in REQUEST_KEYS}
    for key, entry in struct.items():
        if key != source and key not in asked:
            report(Unread("film", place, key, entry))
    found = struct.get(source)
    found = path_of(found) if isinstance(found, str) else found
    return {"video": found, **asked} if asked or isinstance(found, list) else found


def is_film_struct(value: object) -> bool:
    """Return whether a value is the object of one film, if without its path, not a dict of placeholders and films."""
    if not isinstance(value, dict):
        return False
    keys = cast("Mapping[object, object]", value).keys()
    return not keys.isdisjoint((*_SOURCE_KEYS, *REQUEST_KEYS)) and not any(str(key).startswith("<") for key in keys)


def read_film(value: object, root: str = "") -> Film:
    """Read one film in our form, whose source has a valid type.

    Args:
        value: As ``plain_film`` returns it.
        root: Folder where its relative paths start.
    """
    struct = cast("dict[str, object]", value) if isinstance(value, dict) else {"video": value}
    source = struct["video"]
    asked: dict[str, Any] = {
        key: tuple(cast("list[object]", entry)) if isinstance(entry, list) else entry
        for key, entry in struct.items()
        if key != "video"
    }
    if isinstance(source, list):
        paths = tuple(str(Path(root, path)) for path in cast("list[str]", source))
        return Film(source=paths, request=FilmRequest(**asked))
    return Film(source=str(Path(root, cast("str", source))), request=FilmRequest(**asked))
