"""Reads messages whose content is a list of text, image and video parts, as in OpenAI's and transformers' form.

The parts of a message become one text with ``<image>`` for each image and ``<video>`` for each film. They are joined by
one newline, which is how the released ``chat()`` joins a list, so nothing is lost: ``placeholders`` splits the text at
the same places.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from minicpmv.data.records.films import plain_film
from minicpmv.data.records.formats.images import plain_image
from minicpmv.data.records.record import RawRecord, Unread, quote
from minicpmv.errors import Problem
from minicpmv.processing.films.request import REQUEST_KEYS

__all__ = ["Parts", "Shown", "read_parts"]

_EXPECTED = "{'type': 'text', 'text': ...}, or an image_url, image or video part"
_TEXTS = ("text", "value")
"""Keys of the text in text parts; the second is LLaMA-Factory's."""
_IMAGE_SOURCES = ("image", "path", "url", "base64", "image_url", "value")
"""Keys of the image in image parts."""
_FILM_SOURCES = ("video", "path", "url", "video_url", "value")
"""Keys of the film in video parts."""
_FIXES = {
    "audio": "this version trains pictures, films and text: leave the record out",
    "tool": "write the call under 'tool_calls' of the answer, and the result as a message of the role 'tool'",
    "reason": "write the thinking under 'reasoning_content' of the message, next to its content",
    "think": "write the thinking under 'reasoning_content' of the message, next to its content",
}
"""Fix for a part whose type contains one of these words."""


@dataclass(slots=True)
class Shown:
    """Holds the images, or the films, of parts."""

    values: list[object] = field(default_factory=list)
    """Values in place of a path or an image."""
    places: list[str] = field(default_factory=list)
    """Field of each."""
    bare: list[str] = field(default_factory=list)
    """Fields of parts that only mark the place of an image or film of the record."""
    indices: list[object] = field(default_factory=list)
    """``index`` of each of those; None without one."""

    def extend(self, other: Shown) -> None:
        """Add those of other parts."""
        self.values += other.values
        self.places += other.places
        self.bare += other.bare
        self.indices += other.indices


@dataclass(slots=True)
class Parts:
    """Holds what was read from the parts of one message."""

    text: str = ""
    images: Shown = field(default_factory=Shown)
    films: Shown = field(default_factory=Shown)
    problems: list[Problem] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    """Keys of parts that are not read."""


def read_parts(content: Sequence[object], *, record: RawRecord, place: str, images_allowed: bool) -> Parts:
    """Read the content of one message.

    Args:
        content: The parts as written; a null field counts as absent.
        record: The record, to name places.
        place: The field that holds the content, such as ``messages[0].content``.
        images_allowed: Whether this is a turn of the user.
    """
    read = Parts()
    texts: list[str] = []
    for number, part in enumerate(content):
        name = f"{place}[{number}]"
        if part is None:
            continue
        if not isinstance(part, dict):
            _refuse(read, record, name, f"{quote(part)}, which is no part", _EXPECTED, "write it as a text part")
            continue
        given = {key: value for key, value in cast("dict[str, object]", part).items() if value is not None}
        kind = given.get("type")
        if kind == "text":
            _read_text(read, record, name, given, texts)
        elif kind not in ("image", "image_url", "video", "video_url"):
            found = f"a part of type {quote(kind)}" if "type" in given else "a part without 'type'"
            _refuse(read, record, name, found, _EXPECTED, _fix_kind(given))
        elif not images_allowed:
            what = "film" if str(kind).startswith("video") else "image"
            found = f"{'a' if what == 'film' else 'an'} {what} outside the user's turns"
            _refuse(read, record, name, found, "text only", f"move it to the user turn that shows the {what}")
        elif kind in ("image", "image_url"):
            texts.append("<image>")
            _read_image(read, record, name, given)
        else:
            texts.append("<video>")
            _read_film(read, record, name, given)
    read.text = "\n".join(texts)
    return read


def _fix_kind(part: Mapping[str, object]) -> str:
    """Return the fix for a part of an unknown type."""
    kind = part.get("type")
    if "type" not in part:
        keys = ("text", "video", "video_url", *_IMAGE_SOURCES)
        meant = next((key for key in keys if key in part), None)
        if meant:
            return f"add 'type': '{meant if meant in keys[:3] or meant == 'image_url' else 'image'}'"
    if str(kind) in ("input_text", "output_text"):
        return "write 'text' as its type"
    if str(kind) == "input_image":
        return "write 'image_url' as its type"
    return next((fix for word, fix in _FIXES.items() if word in str(kind)), "remove it, or write it as one of these")


def _refuse(read: Parts, record: RawRecord, place: str, found: str, expected: str, fix: str) -> None:
    read.problems.append(Problem("D118", record.where(place), found, expected, fix))


def _read_text(read: Parts, record: RawRecord, name: str, part: Mapping[str, object], texts: list[str]) -> None:
    key = _choose(read, record, name, [key for key in _TEXTS if key in part])
    if key is None:
        return
    if not isinstance(part.get(key), str):
        found = quote(part[key]) if key in part else "no 'text'"
        _refuse(read, record, f"{name}.{key}", found, "text", "write the text in quotes")
        return
    texts.append(cast("str", part[key]))
    read.unread += [Unread("part", name, other, value) for other, value in part.items() if other not in ("type", key)]


def _choose(read: Parts, record: RawRecord, name: str, keys: list[str]) -> str | None:
    """Return the one key with a value, ``text`` if there is none, or None after reporting that there are several."""
    if len(keys) < 2:
        return keys[0] if keys else "text"
    _refuse(read, record, name, f"the keys {', '.join(map(repr, keys))}", "one of them", "remove the others")
    return None


def _read_image(read: Parts, record: RawRecord, name: str, part: Mapping[str, object]) -> None:
    sources = [key for key in _IMAGE_SOURCES if key in part]
    rest = [Unread("part", name, key, value) for key, value in part.items() if key not in ("type", *sources)]
    if not sources and part["type"] == "image":
        read.images.bare.append(name)
        read.images.indices.append(part.get("index"))
        read.unread += [each for each in rest if each.key != "index"]
        return
    key = _choose(read, record, name, sources or ["image_url"])
    if key is None:
        return
    source, place = part.get(key), f"{name}.{key}"
    if isinstance(source, dict) and "url" in source:
        fields = cast("dict[str, object]", source)
        rest += [
            Unread("part", place, other, value)
            for other, value in fields.items()
            if other != "url" and value is not None
        ]
        source, place = fields["url"], f"{place}.url"
    if key == "base64" and isinstance(source, str):
        try:
            source = base64.b64decode(source, validate=True)
        except binascii.Error as error:
            _refuse(read, record, place, f"{quote(source)} ({error})", "base64 text", "encode the image file's bytes")
            return
    read.unread += rest
    read.images.values.append(plain_image(source, place, read.unread.append))
    read.images.places.append(place)


def _read_film(read: Parts, record: RawRecord, name: str, part: Mapping[str, object]) -> None:
    sources = [key for key in _FILM_SOURCES if key in part]
    asked = {key: value for key, value in part.items() if key in REQUEST_KEYS}
    others = {key: value for key, value in part.items() if key not in ("type", *sources, *asked)}
    if not sources and part["type"] == "video":
        read.films.bare.append(name)
        read.films.indices.append(others.pop("index", None))
        read.unread += [Unread("part", name, key, value) for key, value in (others | asked).items()]
        return
    key = _choose(read, record, name, sources or ["video_url"])
    if key is None:
        return
    read.unread += [Unread("film", name, other, value) for other, value in others.items()]
    film, place = plain_film(part.get(key), f"{name}.{key}", read.unread.append), f"{name}.{key}"
    if asked:
        film = (cast("dict[str, object]", film) if isinstance(film, dict) else {"video": film}) | asked
    elif isinstance(film, list):
        film = {"video": film}
    read.films.values.append(film)
    read.films.places.append(place)
