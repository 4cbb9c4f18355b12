"""Measures boxes and points as models write them: ``<box>x1 y1 x2 y2</box>``, ``<point>x y</point>``, of 0 to 1000."""

from __future__ import annotations

from collections.abc import Sequence

from minicpmv.data.records.boxes import Box, find_boxes, find_click
from minicpmv.evaluation.metrics.base import MeanMetric, Sample

__all__ = ["BoxAccuracy", "BoxIoU", "ClickAccuracy", "intersection_over_union"]

_ENOUGH = 0.5


class BoxIoU(MeanMetric):
    """Measures intersection over union with the expected boxes.

    Boxes are paired greedily by overlap, each box belongs to one pair, and boxes that are missing or
    superfluous count 0.
    """

    name = "box_iou"
    description = "intersection over union of boxes; missing and superfluous ones count 0"
    expects = "a reference with a box, <box>x1 y1 x2 y2</box>"

    def rate(self, sample: Sample) -> float | None:
        expected = [boxes for boxes in map(find_boxes, sample.references) if boxes]
        answered = find_boxes(sample.answer)
        return max((self._rate(answered, boxes) for boxes in expected), default=None)

    def _rate(self, answered: Sequence[Box], expected: Sequence[Box]) -> float:
        return sum(map(self._worth, _pair(answered, expected))) / max(len(answered), len(expected))

    def _worth(self, overlap: float) -> float:
        return overlap


class BoxAccuracy(BoxIoU):
    """Measures the share of boxes with an overlap of at least one half, as for referring expressions."""

    name = "box_accuracy"
    description = "share of boxes with an intersection over union of at least 0.5"

    def _worth(self, overlap: float) -> float:
        return float(overlap >= _ENOUGH)


class ClickAccuracy(MeanMetric):
    """Measures the share of answers that point into the expected box, as for agents of graphical interfaces.

    Where the reference has several boxes, each of them is a right place. An answer without a place is wrong.
    """

    name = "click_accuracy"
    description = "share of answers whose first point, or centre of a box, lies in an expected box"
    expects = "a reference with a box, <box>x1 y1 x2 y2</box>"

    def rate(self, sample: Sample) -> float | None:
        targets = [box for reference in sample.references for box in find_boxes(reference)]
        if not targets:
            return None
        click = find_click(sample.answer)
        return float(click is not None and any(_lies_in(click, box) for box in targets))


def _lies_in(point: tuple[float, float], box: Box) -> bool:
    (x, y), (left, top, right, bottom) = point, box
    return left <= x <= right and top <= y <= bottom


def intersection_over_union(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes; corners in the wrong order make an empty box.

    >>> intersection_over_union((0, 0, 10, 10), (0, 5, 10, 15))
    0.3333333333333333
    """
    shared = _area((*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])))
    union = _area(first) + _area(second) - shared
    return shared / union if union else 0.0


def _area(box: Sequence[float]) -> float:
    left, top, right, bottom = box
    return max(right - left, 0) * max(bottom - top, 0)


def _pair(answered: Sequence[Box], expected: Sequence[Box]) -> list[float]:
    overlaps = [
        (intersection_over_union(box, other), number, position)
        for number, box in enumerate(answered)
        for position, other in enumerate(expected)
    ]
    taken_here, taken_there, pairs = set[int](), set[int](), list[float]()
    for overlap, number, position in sorted(overlaps, reverse=True):
        if number not in taken_here and position not in taken_there:
            taken_here.add(number)
            taken_there.add(position)
            pairs.append(overlap)
    return pairs
