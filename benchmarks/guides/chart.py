"""Draws the learning curve of the guides as SVG: right answers by number of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["draw_curves"]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 120, 16, 44
_COLOURS = ("#1f6feb", "#bc4c00")

Curve = Mapping[int, tuple[float, float]]
"""Lowest and highest share of right answers by number of records."""


def draw_curves(curves: Mapping[str, Curve], *, amounts: Sequence[int], chance: float) -> str:
    """Return a picture of curves over a logarithmic axis of records; a bar shows the range of several seeds.

    Args:
        curves: Each by its name, written at the right.
        amounts: Numbers of records that the axis names, in order.
        chance: Share of right answers without learning, a dashed line.
    """
    first, last = math.log(amounts[0]), math.log(amounts[-1])

    def x(number: int) -> float:
        return _LEFT + (math.log(number) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13" role="img" aria-label="Right answers by number of records">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for percent in range(0, 101, 25):
        height = y(percent / 100)
        parts.append(_line(_LEFT, height, _WIDTH - _RIGHT, height, "#d0d7de"))
        parts.append(_text(_LEFT - 8, height + 4, f"{percent} %", anchor="end"))
    parts += [_text(x(number), _HEIGHT - 24, f"{number:,}", anchor="middle") for number in amounts]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "records", anchor="middle"))
    parts.append(_line(_LEFT, y(chance), _WIDTH - _RIGHT, y(chance), "#57606a", dashes="4 4"))
    parts.append(_text(_WIDTH - _RIGHT + 8, y(chance) + 4, "chance"))
    for place, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[place]
        points = [(x(number), low, high) for number, (low, high) in sorted(curve.items())]
        parts += [_line(at, y(low), at, y(high), colour) for at, low, high in points if low != high]
        middle = [(at, y((low + high) / 2)) for at, low, high in points]
        parts.append(_path(middle, colour))
        parts += [f'<circle cx="{at:.1f}" cy="{height:.1f}" r="3.5" fill="{colour}"/>' for at, height in middle]
        label_at = y(1) + 14 + 18 * place
        parts.append(_text(_WIDTH - _RIGHT + 8, label_at, name, colour=colour))
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _path(points: Sequence[tuple[float, float]], colour: str) -> str:
    joined = " ".join(f"{at:.1f},{height:.1f}" for at, height in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#24292f") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
