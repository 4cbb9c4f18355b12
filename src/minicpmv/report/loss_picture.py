"""Draws the loss curve as a picture, for places where a page cannot be opened: a chat, a ticket, a terminal.

Pillow draws it, which is installed anyway: a plotting library would cost every installation 79 MB, and every run
a second at its start, for this one picture.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from minicpmv.processing.pictures.patches import resize
from minicpmv.report.evaluations import measured_keys
from minicpmv.report.run_directory import Run, is_number

__all__ = ["draw_loss", "round_ticks", "smooth"]

_SIZE = (1200, 675)
_LEFT, _TOP, _RIGHT, _BOTTOM = 90, 70, 1170, 605
"""Positions of the axes in pixels."""
_FINE = 3
"""Factor by which lines are drawn larger and then shrunk: Pillow does not antialias."""
_TRAINING, _FAINT = "#0072b2", "#b3d5e8"
_VALIDATION = ("#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Colours of the evaluation sets, in order."""
_INK, _QUIET, _GRID = "#21201d", "#6c6861", "#e3dfd7"

Curve = Sequence[tuple[float, float]]


class _Axes(NamedTuple):
    """Holds the values at the edges."""

    last_step: float
    lowest: float
    highest: float

    def place(self, step: float, loss: float) -> tuple[float, float]:
        across = step / self.last_step
        up = (loss - self.lowest) / (self.highest - self.lowest)
        return _LEFT + across * (_RIGHT - _LEFT), _BOTTOM - up * (_BOTTOM - _TOP)


def draw_loss(run: Run) -> bytes | None:
    """Return a PNG of training and validation loss by step; None if none was logged."""
    training = _curve(run, "loss")
    sets = {
        each.set_name or "validation": _curve(run, each.key) for each in measured_keys(run.log) if each.metric == "loss"
    }
    held_out = [point for curve in sets.values() for point in curve]
    if not training and not held_out:
        return None
    losses = [loss for _, loss in (*training, *held_out)]
    ticks = round_ticks(min(losses), max(losses), most=7)
    axes = _Axes(max(1.0, *(step for step, _ in (*training, *held_out))), ticks[0], ticks[-1])
    image = Image.new("RGB", (_SIZE[0] * _FINE, _SIZE[1] * _FINE), "white")
    pen = ImageDraw.Draw(image)
    for tick in ticks:
        _draw_line(pen, [axes.place(0, tick), axes.place(axes.last_step, tick)], _GRID, 1.5)
    _draw_line(pen, [axes.place(*point) for point in training], _FAINT, 2)
    smoothed = zip((step for step, _ in training), smooth([loss for _, loss in training]), strict=True)
    _draw_line(pen, [axes.place(*point) for point in smoothed], _TRAINING, 4)
    colours = dict(zip(sets, itertools.cycle(_VALIDATION), strict=False))
    for name, curve in sets.items():
        _draw_line(pen, [axes.place(*point) for point in curve], colours[name], 3)
    marks = [(sets[name], colours[name]) for name in sets] + [(training if len(training) == 1 else [], _TRAINING)]
    for (across, down), colour in ((axes.place(*point), colour) for curve, colour in marks for point in curve):
        pen.circle((across * _FINE, down * _FINE), 6 * _FINE, fill=colour)
    image = resize(image, _SIZE, Image.Resampling.LANCZOS)
    _write_words(ImageDraw.Draw(image), axes, ticks, has_training=bool(training), sets=colours)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def round_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Return equally spaced round numbers from at or below ``low`` to at or above ``high``.

    >>> round_ticks(0.07, 3.69, most=6)
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    width = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(width / most))
    step = next(
        step
        for step in (factor * power for factor in (1, 2, 5, 10, 20))
        if math.ceil(high / step) - math.floor(low / step) < most
    )
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def smooth(values: Sequence[float]) -> list[float]:
    """Return the centred moving average over a twentieth of the values; the window shrinks symmetrically at the ends.

    >>> smooth([1.0, 5.0, 3.0])
    [1.0, 5.0, 3.0]
    """
    reach = len(values) // 40
    spans = [min(reach, place, len(values) - 1 - place) for place in range(len(values))]
    return [sum(values[place - span : place + span + 1]) / (2 * span + 1) for place, span in enumerate(spans)]


def _curve(run: Run, key: str) -> Curve:
    found = ((entry["step"], entry.get(key)) for entry in run.log)
    return [(step, float(loss)) for step, loss in found if is_number(loss) and math.isfinite(loss)]


def _draw_line(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
    fine = [(across * _FINE, down * _FINE) for across, down in points]
    if len(fine) > 1:
        pen.line(fine, fill=colour, width=round(width * _FINE), joint="curve")


def _write_words(
    pen: ImageDraw.ImageDraw, axes: _Axes, ticks: Sequence[float], *, has_training: bool, sets: Mapping[str, str]
) -> None:
    small, normal = ImageFont.load_default(20), ImageFont.load_default(22)
    for tick in ticks:
        pen.text((_LEFT - 12, axes.place(0, tick)[1]), f"{tick:g}", fill=_QUIET, font=small, anchor="rm")
    for step in round_ticks(0, axes.last_step, most=9):
        if step <= axes.last_step:
            place = axes.place(step, ticks[0])[0], _BOTTOM + 12
            pen.text(place, f"{step:,.0f}", fill=_QUIET, font=small, anchor="ma")
    pen.text(((_LEFT + _RIGHT) / 2, _SIZE[1] - 8), "step", fill=_QUIET, font=small, anchor="md")
    pen.text((_LEFT, 20), "Loss, nats per trained token", fill=_INK, font=normal, anchor="la")
    labels = list(sets.items())[::-1] + [("training, smoothed", _TRAINING)] * has_training
    right = float(_RIGHT)
    for label, colour in labels:
        pen.text((right, 20), label, fill=colour, font=normal, anchor="ra")
        right -= pen.textlength(label, font=normal) + 28
