"""Fills marks in the text with the names and boxes that a record holds separately, as ms-swift's data do.

``<ref-object>`` takes the next name and ``<bbox>`` the next box, in the order of the text; they become what the models
were taught, ``<ref>cat</ref>`` and ``<box>x1 y1 x2 y2</box>`` on a grid of 0 to 1000. Every mismatch is reported:
a box on the wrong picture is hard to notice, and teaches the model something wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from minicpmv.data.records.boxes import GRID, Box, BoxError, write_box
from minicpmv.data.records.record import RawRecord, quote
from minicpmv.errors import Problem

__all__ = ["MARKS", "check_boxes", "check_objects", "fill_marks"]

MARKS = re.compile(r"<ref-object>|<bbox>(?![^<]*</bbox>)")
"""Marks that are filled; a box with its own end is not one."""
_UNITS = {"real": None, "norm1": 1, "norm1000": GRID}
"""Coordinate of an image's far edge for each ``bbox_type``; None for its size in pixels."""

_LARGEST = 1e9
"""Largest coordinate; NaN is refused as well."""

Messages = Sequence[Mapping[str, Any]]


def check_objects(
    record: RawRecord, messages: Messages, objects: Mapping[str, object], num_images: int
) -> Iterator[Problem]:
    """Yield a problem wherever names, boxes and marks do not match, as far as that is known without sizes."""
    faults = list(_check_shapes(record, objects, num_images))
    yield from faults
    if faults:
        return
    marks = [mark for message in messages for mark in MARKS.findall(message["content"])]
    for mark, key in (("<ref-object>", "ref"), ("<bbox>", "bbox")):
        num_marks, num_given = marks.count(mark), len(cast("list[object]", objects.get(key) or []))
        if num_marks != num_given:
            found = f"{num_given} of 'objects.{key}' for {num_marks} {mark} in the text"
            fix = f"add or remove {mark} or entries of {key!r}, so that each is where it belongs"
            yield Problem("D165", record.where(f"objects.{key}"), found, f"one {mark} for each", fix)


def _check_shapes(record: RawRecord, objects: Mapping[str, object], num_images: int) -> Iterator[Problem]:
    def wrong(field: str, found: str, expected: str, fix: str) -> Problem:
        return Problem("D165", record.where(f"objects{field}"), found, expected, fix)

    for key in ("ref", "bbox", "image_id"):
        if not isinstance(objects.get(key, []), list):
            yield wrong(f".{key}", quote(objects[key]), "a list", "write [...]")
            return
    for number, name in enumerate(cast("list[object]", objects.get("ref") or [])):
        if not isinstance(name, str) or not name.strip():
            yield wrong(f".ref[{number}]", quote(name), "the name of an object", "write it in quotes")
    unit = objects.get("bbox_type", "real")
    if unit not in _UNITS:
        fix = "write 'real' for pixels, 'norm1' for 0 to 1, or 'norm1000' for the models' own grid"
        yield wrong(".bbox_type", quote(unit), "'real', 'norm1' or 'norm1000'", fix)
        return
    boxes, of_images = (
        cast("list[object]", objects.get("bbox") or []),
        cast("list[object]", objects.get("image_id") or []),
    )
    if boxes and not num_images:
        yield wrong(".bbox", "boxes in a record without an image", "an image", "name the image, or remove the boxes")
    if of_images and len(of_images) != len(boxes):
        yield wrong(
            ".image_id", f"{len(of_images)} numbers for {len(boxes)} boxes", "one for each box", "complete the list"
        )
    elif boxes and num_images > 1 and not of_images and _UNITS[cast("str", unit)] is None:
        fix = 'add "image_id": the number of each box\'s image, counted from 0'
        yield wrong("", f"boxes in pixels and {num_images} images", "which image each box is in", fix)
    for number, of_image in enumerate(of_images):
        if isinstance(of_image, bool) or not isinstance(of_image, int) or not 0 <= of_image < num_images:
            fix = "count the images from 0"
            yield wrong(f".image_id[{number}]", quote(of_image), f"a number below {num_images}", fix)
    for number, box in enumerate(boxes):
        if _as_box(box) is None:
            is_point = isinstance(box, list) and len(cast("list[object]", box)) == 2
            fix = (
                "the models' form of points is not known: write a box"
                if is_point
                else "write four numbers, or remove it"
            )
            yield wrong(f".bbox[{number}]", quote(box), "[x1, y1, x2, y2]", fix)


def _as_box(value: object) -> Box | None:
    numbers = cast("list[object]", value) if isinstance(value, list) else []
    sound = [float(n) for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) < _LARGEST]
    return (sound[0], sound[1], sound[2], sound[3]) if len(sound) == len(numbers) == 4 else None


def check_boxes(
    record: RawRecord, objects: Mapping[str, object], sizes: Sequence[tuple[int, int]]
) -> Iterator[Problem]:
    """Yield a problem for each box that is not inside its image.

    Args:
        record: The record, in which ``check_objects`` found no problem.
        objects: Names and boxes of the record.
        sizes: Sizes in pixels, (width, height), of its images, in the order of the ``image`` value.
    """
    for number in range(len(cast("list[object]", objects.get("bbox") or []))):
        try:
            _write(objects, number, sizes)
        except BoxError as error:
            yield Problem("D165", record.where(f"objects.bbox[{number}]"), error.found, error.expected, error.fix)


def _write(objects: Mapping[str, object], number: int, sizes: Sequence[tuple[int, int]]) -> str:
    """Write one box in the models' form.

    Raises:
        BoxError: The box is not inside its image.
    """
    box = _as_box(cast("list[object]", objects["bbox"])[number])
    assert box is not None, "checked before"
    of_images = cast("list[int]", objects.get("image_id") or [])
    unit = _UNITS[cast("str", objects.get("bbox_type", "real"))]
    edges = sizes[of_images[number] if of_images else 0] if unit is None else (unit, unit)
    if unit is None and max(box) <= 1:
        fix = 'if these are parts of the width and height, add "bbox_type": "norm1"'
        raise BoxError(f"the box {' '.join(f'{n:g}' for n in box)!r} in pixels", "a box of more than one pixel", fix)
    return write_box(box, edges, "pixels" if unit is None else f"of {objects['bbox_type']}")


def fill_marks(messages: Messages, objects: Mapping[str, object] | None, sizes: Sequence[tuple[int, int]]) -> Messages:
    """Fill names and boxes into the text of messages without problems.

    Args:
        messages: Messages of a record.
        objects: Its names and boxes, or None, which leaves the messages unchanged.
        sizes: As for ``check_boxes``.
    """
    if objects is None:
        return messages
    names = iter(cast("list[str]", objects.get("ref") or []))
    boxes = iter(range(len(cast("list[object]", objects.get("bbox") or []))))

    def written(mark: re.Match[str]) -> str:
        return f"<ref>{next(names)}</ref>" if mark[0] == "<ref-object>" else _write(objects, next(boxes), sizes)

    return [{**message, "content": MARKS.sub(written, message["content"])} for message in messages]
