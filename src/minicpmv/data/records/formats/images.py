"""Converts other tools' image values to ours: paths, ``data:`` URLs, or an image file's bytes.

Hugging Face's columns hold structs of ``bytes`` and ``path``, others ``{"path": ...}`` with further keys, others URIs.
Whether an image exists is not checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import unquote, urlsplit

from minicpmv.data.records.formats.containers.json_list import mark_like
from minicpmv.data.records.record import Unread
from minicpmv.errors import ImageError
from minicpmv.processing.pictures.patches import read_data_url

__all__ = ["is_image_struct", "path_of", "plain_image", "plain_images"]

_STRUCT_KEYS = ("bytes", "path", "url")
"""Keys of a struct that hold the image; the first that is not null counts."""

Report = Callable[[Unread], None]


def plain_images(value: object, place: str, report: Report) -> object:
    """Convert the value of a record's ``image`` key to our form.

    Args:
        value: A path, a struct, a list or a dict of placeholders, or anything else, which is kept.
        place: The field that holds it.
        report: Receives the keys of structs that are not read.
    """
    if isinstance(value, list):
        entries = enumerate(cast("list[object]", value))
        return [plain_image(entry, f"{place}[{number}]", report) for number, entry in entries if entry is not None]
    if isinstance(value, dict) and not is_image_struct(value):
        mapping = cast("dict[str, object]", value)
        made = {
            key: plain_image(entry, f"{place}[{key!r}]", report) for key, entry in mapping.items() if entry is not None
        }
        return mark_like(mapping, made)
    return plain_image(value, place, report)


def plain_image(value: object, place: str, report: Report) -> object:
    """Convert one image to our form; anything else is kept, for ``checking`` to report."""
    if isinstance(value, str):
        if value.startswith("data:"):
            try:
                return read_data_url(value)
            except ImageError:
                return value
        return path_of(value)
    if not is_image_struct(value):
        return value
    struct = {key: entry for key, entry in cast("dict[str, object]", value).items() if entry is not None}
    source = next((key for key in _STRUCT_KEYS if key in struct), None)
    for key, entry in struct.items():
        if key != source and not (source == "bytes" and key == "path"):  # the path from which the bytes were read
            report(Unread("image", place, key, entry))
    return None if source is None else plain_image(struct[source], place, report)


def is_image_struct(value: object) -> bool:
    """Return whether a value is the struct of one image, not a dict of placeholders and images."""
    if not isinstance(value, dict):
        return False
    keys = cast("Mapping[object, object]", value).keys()
    return not keys.isdisjoint(_STRUCT_KEYS) and not any(str(key).startswith("<") for key in keys)


def path_of(text: str) -> str:
    """Return the path of a ``file:`` URI; one of another machine, and any other text, is kept."""
    if not text.startswith("file:"):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets that are not an IPv6 address
        return text
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path.startswith("/"):
        return text
    return unquote(parts.path)
