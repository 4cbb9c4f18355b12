"""Matches the placeholders in a record's text with its images.

A placeholder is ``<image>`` or ``<ImageHere>`` (the same thing, in order) or, for an ``image`` dict, one of its keys
such as ``<image_00>``. Only user turns have placeholders; elsewhere the same characters are plain text. Without any,
the images open the first user turn. Image files are not read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from minicpmv.data.records.record import RawRecord
from minicpmv.errors import Problem
from minicpmv.processing.text.thinking import THINK, THOUGHT
from minicpmv.processing.text.tool_calls import make_call
from minicpmv.processing.text.turns import ImageRef, Role, Turn
from minicpmv.wording import counted

__all__ = [
    "IMAGE_KEY",
    "PLAIN_PLACEHOLDERS",
    "ImageField",
    "build_turns",
    "check_placeholders",
    "parse_image_field",
    "whole_answer",
]

PLAIN_PLACEHOLDERS = ("<image>", "<ImageHere>")
"""The two spellings in upstream's data, which mean the same."""
IMAGE_KEY = re.compile(r"<image_\d+>")
"""Pattern of a key of an ``image`` dict."""
_LOOKALIKE = re.compile(
    r"<\s*(?:images?|imgs?|pic|picture|image_?here|(?:image|img|pic|picture)[\s_-]?\d+)\s*/?>"
    r"|\[\s*(?:image|img)(?:[\s_-]?\d+)?\s*\]",
    re.IGNORECASE,
)
"""Pattern of mistyped placeholders and of those of other tools."""
_TAG = re.compile(r"(?<=[^\n])<(?:img|picture)>")
"""HTML tag inside a line, in a record without an image: ``Is <img> a tag?``"""
_ANY_TAG = re.compile("<(?:img|picture)>")
"""The same, also at the start of a line, in a record whose images have their placeholders."""
_PLACEHOLDER = re.compile(rf"{'|'.join(PLAIN_PLACEHOLDERS)}|{IMAGE_KEY.pattern}")


@dataclass(frozen=True, slots=True)
class ImageField:
    """Holds a parsed ``image`` value of any form."""

    paths: tuple[str | bytes, ...]
    """Paths and ``data:`` URLs as written, and the bytes of image files from tables."""
    keys: tuple[str, ...] | None
    """Keys, one per path, if the value was a dict of keys such as ``<image_00>``; otherwise None."""


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
        if len(mapping) == 1 and next(iter(mapping)) in PLAIN_PLACEHOLDERS:
            return ImageField(tuple(mapping.values()), None)
        return ImageField(tuple(mapping.values()), tuple(mapping))
    return ImageField(tuple(cast("list[str | bytes]", value)), None)


def _find_placeholders(text: str) -> list[str]:
    return _PLACEHOLDER.findall(text)


def build_turns(messages: Sequence[Mapping[str, Any]], field: ImageField) -> tuple[tuple[Turn, ...], tuple[int, ...]]:
    """Turn checked messages into turns.

    Returns:
        The turns, whose ``ImageRef`` count up from 0 in reading order, and for each of them the index of its path in
        ``field.paths`` (the order of a dict may differ from that of the text).
    """
    order = list(_image_order(messages, field))
    positions = iter(range(len(order)))
    leading: tuple[ImageRef, ...] = ()
    if order and not any(_find_placeholders(m["content"]) for m in messages if m["role"] == "user"):
        leading = tuple(ImageRef(position) for position in positions)
    turns: list[Turn] = []
    for message in messages:
        role, text = cast("Role", message["role"]), message["content"]
        if role != "user":
            calls = tuple(make_call(call) for call in message.get("tool_calls", ()))
            turns.append(Turn(role, (whole_answer(message),), weight=float(message.get("weight", 1)), calls=calls))
            continue
        turns.append(Turn(role, leading + _split(text, positions, alone=not leading)))
        leading = ()
    return tuple(turns), tuple(order)


def whole_answer(message: Mapping[str, Any]) -> str:
    """Return the text of a message after its thinking, in the form of the releases that think."""
    thought = message.get("reasoning_content")
    return f"{THINK}\n{thought.strip(chr(10))}\n{THOUGHT}\n\n{message['content']}" if thought else message["content"]


def _image_order(messages: Sequence[Mapping[str, str]], field: ImageField) -> Iterator[int]:
    """Yield indices into ``field.paths`` in the order of the text."""
    if field.keys is None:
        yield from range(len(field.paths))
        return
    used = [tag for m in messages if m["role"] == "user" for tag in _find_placeholders(m["content"])]
    if not used:
        yield from range(len(field.paths))
        return
    for tag in used:
        yield field.keys.index(tag)


def _split(text: str, positions: Iterator[int], *, alone: bool) -> tuple[str | ImageRef, ...]:
    r"""Split a user text at its placeholders.

    The parts of a turn are joined with one newline when it is rendered, so the newline next to a placeholder belongs to
    the placeholder: ``<image>\nWhat?`` becomes (image, "What?"). Every other character stays.
    """
    tags = _find_placeholders(text)
    if not tags:
        return (text,) if text or alone else ()
    pieces = _PLACEHOLDER.split(text)
    parts: list[str | ImageRef] = []
    for number, piece in enumerate(pieces):
        after_image, before_image = number > 0, number < len(tags)
        if piece and not (after_image and before_image and piece == "\n"):
            start = 1 if after_image and piece[0] == "\n" else 0
            stop = len(piece) - 1 if before_image and piece[-1] == "\n" else len(piece)
            parts.append(piece[start:stop])
        if before_image:
            parts.append(ImageRef(next(positions)))
    return tuple(parts)


def check_placeholders(
    record: RawRecord, messages: Sequence[Mapping[str, str]], field: ImageField
) -> Iterator[Problem]:
    """Yield a problem wherever the placeholders of the user turns do not match the images.

    Args:
        record: The record, to name places.
        messages: Its messages, which have roles and texts.
        field: Its images.
    """
    located = [
        (tag, f"conversations[{number}].content")
        for number, message in enumerate(messages)
        if message["role"] == "user"
        for tag in _find_placeholders(message["content"])
    ]
    problems: list[Problem] = []
    if located:
        keys = field.keys
        problems += (
            _check_plain(record, located, len(field.paths)) if keys is None else _check_keyed(record, located, keys)
        )
    yield from problems or _check_strays(record, messages, has_images=bool(field.paths), is_placed=bool(located))


def _check_plain(record: RawRecord, located: Sequence[tuple[str, str]], num_images: int) -> Iterator[Problem]:
    keyed = [(tag, place) for tag, place in located if tag not in PLAIN_PLACEHOLDERS]
    for tag, place in keyed:
        fix = f'write "image": {{{tag!r}: path, ...}}, or write <image> in the text'
        expected = "<image>, because 'image' is not a dict with this key" if num_images else "no placeholder"
        yield Problem("D136", record.where(place), f"the placeholder {tag!r}", expected, fix)
    num_tags = len(located)
    if keyed or num_tags == num_images:
        return
    found = f"{counted(num_tags, 'placeholder')} for {counted(num_images, 'image')}"
    if num_tags > num_images:
        spare = num_tags - num_images
        fix = f"remove {counted(spare, 'placeholder')} or name {counted(spare, 'more image')}"
        yield Problem("D133", record.where(located[num_images][1]), found, "one placeholder per image", fix)
    else:
        fix = f"add {counted(num_images - num_tags, 'placeholder')}, or remove all of them to put the images first"
        yield Problem("D134", record.where("image"), found, "one placeholder per image", fix)


def _check_keyed(record: RawRecord, located: Sequence[tuple[str, str]], keys: Sequence[str]) -> Iterator[Problem]:
    used: set[str] = set()
    for tag, place in located:
        if tag not in keys:
            found, expected = f"the placeholder {tag!r}", f"a key of 'image': {', '.join(keys)}"
            yield Problem("D136", record.where(place), found, expected, "correct the placeholder or add the key")
        elif tag in used:
            fix = "give the second place a key of its own, with the same path"
            yield Problem("D137", record.where(place), f"the placeholder {tag!r} again", "every key once", fix)
        used.add(tag)
    for key in keys:
        if key not in used:
            fix = "write the key where the image belongs in the text, or remove it here"
            yield Problem("D135", record.where(f"image[{key!r}]"), "a key that no user turn holds", "its use", fix)


def _find_lookalikes(text: str, *, has_images: bool, is_placed: bool) -> list[str]:
    if "<" not in text and "[" not in text:
        return []
    if is_placed or not has_images:
        text = (_ANY_TAG if is_placed else _TAG).sub("", text)
    return [stray for stray in _LOOKALIKE.findall(text) if not _PLACEHOLDER.fullmatch(stray)]


def _check_strays(
    record: RawRecord, messages: Sequence[Mapping[str, str]], *, has_images: bool, is_placed: bool
) -> Iterator[Problem]:
    """Yield a problem for text that looks like a placeholder without being one, with or without images.

    Args:
        record: The record, to name places.
        messages: Its messages.
        has_images: Whether it has images. Then a placeholder outside the user's turns may be meant for them,
        is_placed: unless they have their placeholders.
    """
    for number, message in enumerate(messages):
        text = message["content"]
        if message["role"] == "user":
            strays = _find_lookalikes(text, has_images=has_images, is_placed=is_placed)
        else:
            strays = _find_placeholders(text) if has_images and not is_placed else []
        if strays:
            expected = "<image> (or a key such as <image_00>) in a user turn"
            fix = (
                "correct the spelling" if message["role"] == "user" else "move it to the user turn that shows the image"
            )
            if not has_images:
                fix = "write <image> in place of it, and name the image under 'image' of the record"
            where = record.where(f"conversations[{number}].content")
            yield Problem("D138", where, f"{strays[0]!r} in a turn of the {message['role']}", expected, fix)
            return
