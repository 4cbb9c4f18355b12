"""Writes and reads boxes in MiniCPM-V's form, ``<ref>cat</ref><box>x1 y1 x2 y2</box>`` on a grid of 0 to 1000.

Only marked boxes are changed: text in ``<box>...</box>``, and a bracketed list directly after ``</ref>``.
Numbers in prose are left alone, since their meaning is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["GRID", "Box", "BoxError", "find_boxes", "find_click", "scale_boxes", "write_box"]

GRID = 1000
"""The far edge of an image, whatever its size, in the coordinates that the models were trained on."""

_NUMBER = r"\d+(?:\.\d+)?"
_SEPARATOR = r"(?:\s*,\s*|\s+)"
_FOUR = _SEPARATOR.join([rf"({_NUMBER})"] * 4)
_POINT = rf"\(\s*({_NUMBER}){_SEPARATOR}({_NUMBER})\s*\)"
_FORMS = (
    re.compile(_FOUR),
    re.compile(rf"\[\s*{_FOUR}\s*\]"),
    re.compile(rf"\(\s*{_FOUR}\s*\)"),
    re.compile(rf"{_POINT}\s*,?\s*{_POINT}"),
)
_BOX = re.compile(r"<box>(?P<inside>.*?)</box>|(?<=</ref>)(?P<bracket>\[[^\[\]<>]*\])", re.DOTALL)
_PAIR = rf"(?:x\s*=\s*)?({_NUMBER}){_SEPARATOR}(?:y\s*=\s*)?({_NUMBER})"
_CLICK = re.compile(
    rf"<point>\s*[\[(]?\s*{_PAIR}\s*[\])]?\s*</point>|<box>\s*[\[(]?\s*{_FOUR}\s*[\])]?\s*</box>"
    rf"|[\[(]\s*{_PAIR}\s*[\])]"
)
"""A place as agents of graphical interfaces write one: marked, or a pair of numbers in brackets, ``click(3, 4)``."""
_OTHER_MARKS = re.compile(r"<(quad|point)>")


Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class BoxError(ValueError):
    """Says why a box cannot be rewritten.

    Args:
        found: The box, or what is wrong with it.
        expected: What would work.
        fix: What the owner can do.
    """

    def __init__(self, found: str, expected: str, fix: str) -> None:
        self.found, self.expected, self.fix = found, expected, fix
        super().__init__(found)


def scale_boxes(text: str, image_sizes: Sequence[tuple[int, int]]) -> str:
    """Rewrite the boxes of a text.

    >>> scale_boxes("<ref>cat</ref>[20, 30, 200, 100]", [(400, 200)])
    '<ref>cat</ref><box>50 150 500 500</box>'

    Args:
        text: A message.
        image_sizes: Size in pixels, (width, height), of every image of the record.

    Raises:
        BoxError: A box is not four numbers inside the image, or its image is ambiguous.
    """
    other = _OTHER_MARKS.search(text)
    if other:
        fix = "rewrite these yourself, and convert without --pixel-boxes"
        raise BoxError(f"a <{other[1]}>", "boxes only: quads and points are not rewritten", fix)
    scaled = _BOX.sub(lambda match: _scale(match["inside"] or match["bracket"] or "", image_sizes), text)
    if scaled.count("<box>") != scaled.count("</box>") or _BOX.sub("", scaled).count("<box>"):
        raise BoxError("<box> and </box> that do not pair up", "one </box> after each <box>", "complete the markup")
    return scaled


def find_boxes(text: str) -> list[Box]:
    """Read the boxes of a text in their original units, ignoring those without four numbers.

    >>> find_boxes("<ref>cat</ref><box>50 150 500 500</box> and <box>somewhere</box>")
    [(50.0, 150.0, 500.0, 500.0)]
    """
    matches = (_match_numbers(match["inside"] or match["bracket"] or "") for match in _BOX.finditer(text))
    boxes = (tuple(map(float, match.groups())) for match in matches if match)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes]


def find_click(text: str) -> tuple[float, float] | None:
    """Read the first place that a text points at: a marked point, a pair of numbers, or the centre of a box.

    >>> find_click("<point>120 48</point>"), find_click('{"POINT": [120, 48], "duration": 2}')
    ((120.0, 48.0), (120.0, 48.0))
    >>> find_click("<box>0 0 10 20</box>"), find_click("click(x=3, y=4)"), find_click("3 or 4")
    ((5.0, 10.0), (3.0, 4.0), None)
    """
    match = _CLICK.search(text)
    if match is None:
        return None
    numbers = [float(number) for number in match.groups() if number is not None]
    xs, ys = numbers[::2], numbers[1::2]
    return sum(xs) / len(xs), sum(ys) / len(ys)


def _match_numbers(inside: str) -> re.Match[str] | None:
    forms = (form.fullmatch(inside.strip()) for form in _FORMS)
    return next((match for match in forms if match), None)


def _scale(inside: str, image_sizes: Sequence[tuple[int, int]]) -> str:
    match = _match_numbers(inside)
    if match is None:
        raise BoxError(f"the box {inside!r}", "four numbers: x1 y1 x2 y2", "write the corners as four numbers")
    if len(image_sizes) != 1:
        found = f"the box {inside!r} in a record with {len(image_sizes)} images"
        raise BoxError(found, "one image, whose size gives the scale", "write this record's boxes on the grid yourself")
    x1, y1, x2, y2 = map(float, match.groups())
    try:
        return write_box((x1, y1, x2, y2), image_sizes[0], "pixels")
    except BoxError as error:
        raise BoxError(f"the box {inside!r} in {error.found.partition(' in ')[2]}", error.expected, error.fix) from None


def write_box(box: Box, edges: tuple[int, int], unit: str) -> str:
    """Write a box in the form of the models' training data.

    >>> write_box((20, 30, 200, 100), (400, 200), "pixels")
    '<box>50 150 500 500</box>'

    Args:
        box: The box, in the unit of ``edges``.
        edges: Width and height of the image.
        unit: Name of the unit, for the message.

    Raises:
        BoxError: The box is not inside the image.
    """
    (width, height), (x1, y1, x2, y2) = edges, box
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        numbers = " ".join(f"{number:g}" for number in box)
        found = f"the box {numbers!r} in an image of {width} x {height} {unit}"
        raise BoxError(found, "x1 < x2 <= width and y1 < y2 <= height", "correct the box, or leave it out")
    grid = (x1 * GRID / width, y1 * GRID / height, x2 * GRID / width, y2 * GRID / height)
    return f"<box>{' '.join(str(int(place + 0.5)) for place in grid)}</box>"
