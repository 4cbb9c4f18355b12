"""Recognises the content of values whose key nothing reads: pictures, sound or video, boxes, numbers, texts.

``unread_keys`` decides whether that matters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from minicpmv.data.records.record import quote

__all__ = [
    "IMAGE_ENDINGS",
    "are_points",
    "find_boxes",
    "find_media",
    "holds_numbers",
    "is_number",
    "leaves_of",
    "texts_in",
]

_IMAGES = "png jpg jpeg jpe jfif gif bmp dib webp tif tiff heic heif avif jp2 ppm pgm svg ico"
_OTHERS = "mp4 avi mov mkv webm flv wmv m4v mpg mpeg wav mp3 flac ogg m4a aac opus"
IMAGE_ENDINGS = frozenset(_IMAGES.split())
_OTHER_ENDINGS = frozenset(_OTHERS.split())
_MOST_LOOKED_UP = 64
"""Most distinct values of a key in a file that are looked up on the disk, which may be remote and slow."""
_MOST_DEEP = 20
_LEAST_BASE64 = 40
"""Fewest characters of an image embedded in a text."""
_BASE64_IMAGES = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "data:image/")
_CORNERS = (
    {"x1", "y1", "x2", "y2"},
    {"x", "y", "w", "h"},
    {"x", "y", "width", "height"},
    {"left", "top", "right", "bottom"},
    {"left", "top", "width", "height"},
    {"xmin", "ymin", "xmax", "ymax"},
)
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_BOX_TEXT = re.compile(rf"\s*[\[(]?\s*{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER}){{3}}\s*[\])]?\s*")
_BEGINNINGS = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP"),
    *(b"ID3", b"OggS", b"fLaC"),
)
"""First bytes of picture, sound and video files; others have ``ftyp`` in bytes 4 to 8."""


def find_media(value: object, root: str, looked_up: set[str], depth: int = 0) -> str | None:
    """Find a picture, sound or video in a value, and describe it.

    Args:
        value: Any value of a record.
        root: Folder where relative paths start.
        looked_up: Texts that were already looked up on the disk; grows.
        depth: Number of lists and objects around the value.
    """
    if isinstance(value, (bytes, bytearray)):
        return "a picture's bytes" if _begins_as_media(bytes(value[:16])) else None
    if isinstance(value, str):
        return _judge_text(value, root, looked_up)
    if depth < _MOST_DEEP and isinstance(value, (list, dict)):
        entries = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        for entry in entries:
            if not isinstance(entry, (int, float)) and (told := find_media(entry, root, looked_up, depth + 1)):
                return told
    return None


def _judge_text(text: str, root: str, looked_up: set[str]) -> str | None:
    if text.startswith(_BASE64_IMAGES) and len(text) > _LEAST_BASE64 and not any(map(str.isspace, text[:100])):
        return "a picture inside the text"
    if len(text) > 1000 or "\n" in text:
        return None
    ending = _media_ending(text)
    if ending:
        return f"{'a picture' if ending in IMAGE_ENDINGS else 'sound or film'}: {quote(text)}"
    if len(looked_up) < _MOST_LOOKED_UP and text not in looked_up:
        looked_up.add(text)
        if _holds_picture(os.path.join(root, text)):
            return f"a picture's file: {quote(text)}"
    return None


def _media_ending(text: str) -> str:
    """Return the ending of a path or address of a picture, sound or video; empty for anything else."""
    stem, dot, ending = text.split("?", 1)[0].rpartition(".")
    ending = ending.lower()
    return (
        ending
        if dot and stem and not stem[-1].isspace() and (ending in IMAGE_ENDINGS or ending in _OTHER_ENDINGS)
        else ""
    )


def _begins_as_media(head: bytes) -> bool:
    return head.startswith(_BEGINNINGS) or head[4:8] == b"ftyp"


def _holds_picture(path: str) -> bool:
    try:
        if not os.path.isfile(path):  # a pipe would block
            return False
        with open(path, "rb") as file:
            return _begins_as_media(file.read(16))
    except (OSError, ValueError):  # no access, or not a path
        return False


def find_boxes(value: object, depth: int = 0) -> bool:
    """Return whether a value holds four or eight numbers in a row, also as text, or named corners."""
    if isinstance(value, str):
        return _BOX_TEXT.fullmatch(value) is not None
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        named = {key.lower() for key, entry in fields.items() if is_number(entry)}
        return any(corners <= named for corners in _CORNERS) or _any_boxes(fields.values(), depth)
    if not isinstance(value, list):
        return False
    entries = cast("list[object]", value)
    return (len(entries) in (4, 8) and all(map(is_number, entries))) or _any_boxes(entries, depth)


def _any_boxes(entries: Iterable[object], depth: int) -> bool:
    return depth < _MOST_DEEP and any(
        isinstance(entry, (list, dict, str)) and find_boxes(entry, depth + 1) for entry in entries
    )


def are_points(value: object) -> bool:
    """Return whether a value is a list of pairs of numbers."""
    entries = cast("list[object]", value) if isinstance(value, list) else []
    pairs = [cast("list[object]", entry) for entry in entries if isinstance(entry, list)]
    return 0 < len(entries) == len(pairs) and all(len(pair) == 2 and all(map(is_number, pair)) for pair in pairs)


def is_number(value: object) -> bool:
    """Return whether a value is a number and not a boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def leaves_of(value: object, depth: int = 0) -> Iterator[object]:
    """Yield the values inside a value that are neither lists nor objects."""
    if not isinstance(value, (list, dict)):
        yield value
    elif depth < _MOST_DEEP:
        entries = (
            cast("Mapping[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        )
        for entry in entries:
            yield from leaves_of(entry, depth + 1)


def texts_in(value: object) -> Iterator[str]:
    """Yield the texts in a value."""
    return (leaf for leaf in leaves_of(value) if isinstance(leaf, str))


def holds_numbers(value: object) -> bool:
    """Return whether a value holds a number, a boolean or bytes."""
    return any(isinstance(leaf, (int, float, bytes)) for leaf in leaves_of(value))
