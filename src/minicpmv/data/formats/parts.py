"""Messages whose content is a list of parts, as OpenAI's and transformers' are: text and images in turn.

The parts of a message become one text with ``<image>`` where an image stands. They are joined by one newline, which is
how the released ``chat()`` joins a list, so nothing is lost: ``placeholders`` cuts the text at the same places.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from minicpmv.data.records import RawRecord, quote
from minicpmv.errors import Problem

__all__ = ["Parts", "read_parts"]

_EXPECTED = "{'type': 'text', 'text': ...}, or an image_url or image part"
_IMAGE_SOURCES = ("image", "path", "url", "base64")
"""Where transformers' image parts hold the image."""


@dataclass(slots=True)
class Parts:
    """What the parts of one message hold."""

    text: str = ""
    images: list[object] = field(default_factory=list)
    """Whatever stands where a path or an image is expected."""
    places: list[str] = field(default_factory=list)
    """The field of each image."""
    bare: list[str] = field(default_factory=list)
    """The fields of image parts that only say where an image of the record goes."""
    problems: list[Problem] = field(default_factory=list)


def read_parts(content: Sequence[object], *, record: RawRecord, place: str, images_allowed: bool) -> Parts:
    """Read the content of one message.

    Args:
        content: The parts as written; a null field counts as left out.
        record: Names the places.
        place: The field that holds the content, such as ``messages[0].content``.
        images_allowed: Whether this is a turn of the user.
    """
    read = Parts()
    texts: list[str] = []
    for number, part in enumerate(content):
        name = f"{place}[{number}]"
        if not isinstance(part, dict):
            _refuse(read, record, name, f"{quote(part)}, which is no part", _EXPECTED, "write it as a text part")
            continue
        given = {key: value for key, value in cast("dict[str, object]", part).items() if value is not None}
        kind = given.get("type")
        if kind == "text":
            if isinstance(given.get("text"), str):
                texts.append(cast("str", given["text"]))
            else:
                found = f"{quote(given['text'])}" if "text" in given else "no 'text'"
                _refuse(read, record, f"{name}.text", found, "text", "write the text in quotes")
        elif kind not in ("image", "image_url"):
            found = f"a part of type {quote(kind)}" if "type" in given else "a part without 'type'"
            _refuse(read, record, name, found, _EXPECTED, "remove it, or write it as one of these")
        elif not images_allowed:
            found, fix = "an image outside the user's turns", "move it to the user turn that shows the image"
            _refuse(read, record, name, found, "text only", fix)
        else:
            texts.append("<image>")
            _read_image(read, record, name, given)
    read.text = "\n".join(texts)
    return read


def _refuse(read: Parts, record: RawRecord, place: str, found: str, expected: str, fix: str) -> None:
    read.problems.append(Problem("D118", record.where(place), found, expected, fix))


def _read_image(read: Parts, record: RawRecord, name: str, part: Mapping[str, object]) -> None:
    key = "image_url"
    if part["type"] == "image":
        sources = [key for key in (*_IMAGE_SOURCES, "image_url") if key in part]
        if not sources:
            read.bare.append(name)
            return
        if len(sources) > 1:
            _refuse(read, record, name, f"the keys {', '.join(map(repr, sources))}", "one of them", "remove the others")
            return
        key = sources[0]
    source, place = part.get(key), f"{name}.{key}"
    if isinstance(source, dict) and "url" in source:
        source, place = cast("dict[str, object]", source)["url"], f"{place}.url"
    if key == "base64" and isinstance(source, str):
        try:
            source = base64.b64decode(source, validate=True)
        except binascii.Error as error:
            _refuse(read, record, place, f"{quote(source)} ({error})", "base64 text", "encode the image file's bytes")
            return
    read.images.append(source)
    read.places.append(place)
