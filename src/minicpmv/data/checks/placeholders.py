"""Matches the placeholders in a record's text with its images and films.

A placeholder is ``<image>`` or ``<ImageHere>`` (the same thing, in order) or, for an ``image`` dict, one of its keys
such as ``<image_00>``; of a film it is ``<video>``, or a key such as ``<video_00>``. Only user turns have placeholders;
elsewhere the same characters are plain text. Without any of a kind, the images, and then the films, open the first user
turn. No file is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from minicpmv.data.records.films import is_film_struct
from minicpmv.data.records.record import RawRecord
from minicpmv.errors import Problem
from minicpmv.processing.text.thinking import THINK, THOUGHT
from minicpmv.processing.text.tool_calls import make_call
from minicpmv.processing.text.turns import FilmRef, ImageRef, Part, Role, Turn
from minicpmv.wording import counted

__all__ = [
    "FILM",
    "IMAGE",
    "PLACEHOLDER",
    "FilmField",
    "ImageField",
    "Medium",
    "build_turns",
    "check_placeholders",
    "parse_film_field",
    "parse_image_field",
    "whole_answer",
]


@dataclass(frozen=True, slots=True)
class Medium:
    """Describes the placeholders of images, or of films."""

    field: str
    """Key of the record that names them."""
    thing: str
    """Word by which messages name a thing of this kind, such as ``image``."""
    plain: tuple[str, ...]
    """Placeholders that mean the next one."""
    key: re.Pattern[str]
    """Pattern of a key of a dict of placeholders."""
    pattern: re.Pattern[str]
    """Pattern of all its placeholders."""

    def find(self, text: str) -> list[str]:
        """Return the placeholders in a text."""
        return self.pattern.findall(text)


IMAGE = Medium(
    "image",
    "image",
    ("<image>", "<ImageHere>"),
    re.compile(r"<image_\d+>"),
    re.compile(r"<image>|<ImageHere>|<image_\d+>"),
)
"""The first two are the spellings in upstream's data, which mean the same."""
FILM = Medium("video", "film", ("<video>",), re.compile(r"<video_\d+>"), re.compile(r"<video>|<video_\d+>"))
PLACEHOLDER = re.compile(f"{IMAGE.pattern.pattern}|{FILM.pattern.pattern}")
_LOOKALIKE = re.compile(
    r"<\s*(?:images?|imgs?|pic|picture|image_?here|(?:image|img|pic|picture)[\s_-]?\d+)\s*/?>"
    r"|\[\s*(?:image|img)(?:[\s_-]?\d+)?\s*\]"
    r"|<\s*(?:videos?|video[\s_-]?\d+)\s*/?>|\[\s*video(?:[\s_-]?\d+)?\s*\]",
    re.IGNORECASE,
)
"""Pattern of mistyped placeholders and of those of other tools."""
_TAG = re.compile(r"(?<=[^\n])<(?:img|picture)>")
"""HTML tag inside a line, in a record without an image: ``Is <img> a tag?``"""
_ANY_TAG = re.compile("<(?:img|picture)>")
"""The same, also at the start of a line, in a record whose images have their placeholders."""


@dataclass(frozen=True, slots=True)
class ImageField:
    """Holds a parsed ``image`` value of any form."""

    paths: tuple[str | bytes, ...]
    """Paths and ``data:`` URLs as written, and the bytes of image files from tables."""
    keys: tuple[str, ...] | None
    """Keys, one per path, if the value was a dict of keys such as ``<image_00>``; otherwise None."""


@dataclass(frozen=True, slots=True)
class FilmField:
    """Holds a parsed ``video`` value of any form."""

    films: tuple[object, ...] = ()
    """Each in our form, see ``records.films``."""
    keys: tuple[str, ...] | None = None
    """Keys, one per film, if the value was a dict of keys such as ``<video_00>``; otherwise None."""


def parse_image_field(value: object) -> ImageField:
    """Parse an ``image`` value of a valid type: a path, a list of paths, a dict of placeholders and paths, or nothing.

    The bytes of an image file may replace each path.
    A dict with the single key ``<image>`` or ``<ImageHere>`` is the same as its path alone.
    """
    if not value:
        return ImageField((), None)
    if isinstance(value, (str, bytes)):
        return ImageField((value,), None)
    if isinstance(value, dict):
        mapping = cast("dict[str, str | bytes]", value)
        if len(mapping) == 1 and next(iter(mapping)) in IMAGE.plain:
            return ImageField(tuple(mapping.values()), None)
        return ImageField(tuple(mapping.values()), tuple(mapping))
    return ImageField(tuple(cast("list[str | bytes]", value)), None)


def parse_film_field(value: object) -> FilmField:
    """Parse a ``video`` value of a valid type: a film, a list of films, a dict of placeholders and films, or nothing.

    A dict with the single key ``<video>`` is the same as its film alone.
    """
    if not value:
        return FilmField()
    if isinstance(value, list):
        return FilmField(tuple(cast("list[object]", value)))
    if not isinstance(value, dict) or is_film_struct(cast("object", value)):
        return FilmField((cast("object", value),))
    mapping = cast("dict[str, object]", value)
    if len(mapping) == 1 and next(iter(mapping)) in FILM.plain:
        return FilmField(tuple(mapping.values()))
    return FilmField(tuple(mapping.values()), tuple(mapping))


def build_turns(
    messages: Sequence[Mapping[str, Any]], images: ImageField, films: FilmField
) -> tuple[tuple[Turn, ...], tuple[int, ...], tuple[int, ...]]:
    """Turn checked messages into turns.

    Returns:
        The turns, whose ``ImageRef`` and ``FilmRef`` count up from 0 in reading order; for each of the former the index
        of its path in ``images.paths``, and for each of the latter that of its film in ``films.films`` (the order of a
        dict may differ from that of the text).
    """
    image_order = tuple(_order(messages, IMAGE, images.keys, len(images.paths)))
    film_order = tuple(_order(messages, FILM, films.keys, len(films.films)))
    refs = _Refs(iter(range(len(image_order))), iter(range(len(film_order))))
    leading: tuple[Part, ...] = ()
    if image_order and not any(IMAGE.find(m["content"]) for m in messages if m["role"] == "user"):
        leading += tuple(ImageRef(position) for position in refs.images)
    if film_order and not any(FILM.find(m["content"]) for m in messages if m["role"] == "user"):
        leading += tuple(FilmRef(position) for position in refs.films)
    turns: list[Turn] = []
    for message in messages:
        role, text = cast("Role", message["role"]), message["content"]
        if role != "user":
            calls = tuple(make_call(call) for call in message.get("tool_calls", ()))
            turns.append(Turn(role, (whole_answer(message),), weight=float(message.get("weight", 1)), calls=calls))
            continue
        turns.append(Turn(role, leading + _split(text, refs, alone=not leading)))
        leading = ()
    return tuple(turns), image_order, film_order


def whole_answer(message: Mapping[str, Any]) -> str:
    """Return the text of a message after its thinking, in the form of the releases that think."""
    thought = message.get("reasoning_content")
    return f"{THINK}\n{thought.strip(chr(10))}\n{THOUGHT}\n\n{message['content']}" if thought else message["content"]


def _order(
    messages: Sequence[Mapping[str, str]], medium: Medium, keys: Sequence[str] | None, number: int
) -> Iterator[int]:
    """Yield the indices of images, or films, in the order of the text."""
    used = [] if keys is None else [tag for m in messages if m["role"] == "user" for tag in medium.find(m["content"])]
    if keys is None or not used:
        yield from range(number)
        return
    for tag in used:
        yield keys.index(tag)


@dataclass(frozen=True, slots=True)
class _Refs:
    """Counts the images and films of a record's text."""

    images: Iterator[int]
    films: Iterator[int]

    def next(self, tag: str) -> Part:
        return FilmRef(next(self.films)) if FILM.pattern.fullmatch(tag) else ImageRef(next(self.images))


def _split(text: str, refs: _Refs, *, alone: bool) -> tuple[Part, ...]:
    r"""Split a user text at its placeholders.

    The parts of a turn are joined with one newline when it is rendered, so the newline next to a placeholder belongs to
    the placeholder: ``<image>\nWhat?`` becomes (image, "What?"). Every other character stays.
    """
    tags = PLACEHOLDER.findall(text)
    if not tags:
        return (text,) if text or alone else ()
    pieces = PLACEHOLDER.split(text)
    parts: list[Part] = []
    for number, piece in enumerate(pieces):
        after_image, before_image = number > 0, number < len(tags)
        if piece and not (after_image and before_image and piece == "\n"):
            start = 1 if after_image and piece[0] == "\n" else 0
            stop = len(piece) - 1 if before_image and piece[-1] == "\n" else len(piece)
            parts.append(piece[start:stop])
        if before_image:
            parts.append(refs.next(tags[number]))
    return tuple(parts)


def check_placeholders(
    record: RawRecord, messages: Sequence[Mapping[str, str]], images: ImageField, films: FilmField
) -> Iterator[Problem]:
    """Yield a problem wherever the placeholders of the user turns do not match the images or films.

    Args:
        record: The record, to name places.
        messages: Its messages, which have roles and texts.
        images: Its images.
        films: Its films.
    """
    problems: list[Problem] = []
    unplaced: list[Medium] = []
    is_placed = False
    for medium, keys, number in ((IMAGE, images.keys, len(images.paths)), (FILM, films.keys, len(films.films))):
        located = [
            (tag, f"conversations[{place}].content")
            for place, message in enumerate(messages)
            if message["role"] == "user"
            for tag in medium.find(message["content"])
        ]
        is_placed |= bool(located)
        if number and not located:
            unplaced.append(medium)
        if located and keys is None:
            problems += _check_plain(record, medium, located, number)
        elif located and keys is not None:
            problems += _check_keyed(record, medium, located, keys)
    has_media = bool(images.paths or films.films)
    yield from problems or _check_strays(record, messages, unplaced, has_media=has_media, is_placed=is_placed)


def _check_plain(
    record: RawRecord, medium: Medium, located: Sequence[tuple[str, str]], number: int
) -> Iterator[Problem]:
    field, thing, plain = medium.field, medium.thing, medium.plain[0]
    keyed = [(tag, place) for tag, place in located if tag not in medium.plain]
    for tag, place in keyed:
        fix = f'write "{field}": {{{tag!r}: path, ...}}, or write {plain} in the text'
        expected = f"{plain}, because {field!r} is not a dict with this key" if number else "no placeholder"
        yield Problem("D136", record.where(place), f"the placeholder {tag!r}", expected, fix)
    num_tags = len(located)
    if keyed or num_tags == number:
        return
    found = f"{counted(num_tags, 'placeholder')} for {counted(number, thing)}"
    if num_tags > number:
        spare = num_tags - number
        fix = f"remove {counted(spare, 'placeholder')} or name {counted(spare, f'more {thing}')}"
        yield Problem("D133", record.where(located[number][1]), found, f"one placeholder per {thing}", fix)
    else:
        fix = f"add {counted(number - num_tags, 'placeholder')}, or remove all of them to put the {thing}s first"
        yield Problem("D134", record.where(field), found, f"one placeholder per {thing}", fix)


def _check_keyed(
    record: RawRecord, medium: Medium, located: Sequence[tuple[str, str]], keys: Sequence[str]
) -> Iterator[Problem]:
    used: set[str] = set()
    for tag, place in located:
        if tag not in keys:
            found, expected = f"the placeholder {tag!r}", f"a key of {medium.field!r}: {', '.join(keys)}"
            yield Problem("D136", record.where(place), found, expected, "correct the placeholder or add the key")
        elif tag in used:
            fix = "give the second place a key of its own, with the same path"
            yield Problem("D137", record.where(place), f"the placeholder {tag!r} again", "every key once", fix)
        used.add(tag)
    for key in keys:
        if key not in used:
            fix = f"write the key where the {medium.thing} belongs in the text, or remove it here"
            where = record.where(f"{medium.field}[{key!r}]")
            yield Problem("D135", where, "a key that no user turn holds", "its use", fix)


def _find_lookalikes(text: str, *, has_media: bool, is_placed: bool) -> list[str]:
    if "<" not in text and "[" not in text:
        return []
    if is_placed or not has_media:
        text = (_ANY_TAG if is_placed else _TAG).sub("", text)
    return [stray for stray in _LOOKALIKE.findall(text) if not PLACEHOLDER.fullmatch(stray)]


def _check_strays(
    record: RawRecord,
    messages: Sequence[Mapping[str, str]],
    unplaced: Sequence[Medium],
    *,
    has_media: bool,
    is_placed: bool,
) -> Iterator[Problem]:
    """Yield a problem for text that looks like a placeholder without being one, with or without images.

    Args:
        record: The record, to name places.
        messages: Its messages.
        unplaced: What the record has without a placeholder; one outside the user's turns may be meant for it.
        has_media: Whether the record has images or films.
        is_placed: Whether any of them has its placeholder.
    """
    for number, message in enumerate(messages):
        text, is_asked = message["content"], message["role"] == "user"
        if is_asked:
            strays = _find_lookalikes(text, has_media=has_media, is_placed=is_placed)
        else:
            strays = [tag for medium in unplaced for tag in medium.find(text)]
        if not strays:
            continue
        medium, key = (FILM, "<video_00>") if "video" in strays[0].lower() else (IMAGE, "<image_00>")
        expected = f"{medium.plain[0]} (or a key such as {key}) in a user turn"
        fix = "correct the spelling" if is_asked else f"move it to the user turn that shows the {medium.thing}"
        if not has_media:
            fix = f"write {medium.plain[0]} in place of it, and name the {medium.thing} under "
            fix += f"{medium.field!r} of the record"
        where = record.where(f"conversations[{number}].content")
        yield Problem("D138", where, f"{strays[0]!r} in a turn of the {message['role']}", expected, fix)
        return
