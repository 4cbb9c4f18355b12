"""Writes the page: one self-contained file that needs neither network nor other files.

Text from a run is escaped by the template engine, or written as JSON in a form that cannot end its element.
The style sheet and the script are ours.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

import jinja2
import numpy as np

from minicpmv.pages.templates import make_environment
from minicpmv.report.answers.pairs import KINDS, AnswerSet
from minicpmv.report.curves import Chart, Point, make_charts
from minicpmv.report.differences import find_differences
from minicpmv.report.run_directory import Run
from minicpmv.report.run_views import MAX_CHARACTERS, view_run

__all__ = ["render_page"]

_MOST_COLUMNS = 12
"""Most values of a curve that its table has."""
_SURROGATES = re.compile("[\ud800-\udfff]")


def render_page(
    runs: Sequence[Run],
    answers: Sequence[Sequence[AnswerSet]],
    *,
    picture: bytes | None = None,
    version: str | None = None,
) -> str:
    """Return the page of one run, or of several overlaid.

    Args:
        runs: At least one.
        answers: Answer sets of each run.
        picture: PNG of the loss, which is shown where scripts are turned off.
        version: Name of this state of the runs at the server of the page, which then asks there for a newer one.
    """
    names = _names(runs)
    charts = make_charts(runs)
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            views=[view_run(run, of_run, name=name) for run, of_run, name in zip(runs, answers, names, strict=True)],
            charts=charts,
            chart_data=_as_json(charts, names),
            picture=None if picture is None else f"data:image/png;base64,{base64.b64encode(picture).decode()}",
            version=version,
            differences=find_differences(runs) if len(runs) > 1 else {},
            kinds=KINDS,
        )
    )
    return _SURROGATES.sub("\ufffd", page)  # JSON can hold half a surrogate pair, UTF-8 cannot


def _names(runs: Sequence[Run]) -> list[str]:
    """Name runs by their directories, with as much of the path as distinguishes them."""
    uses = Counter(run.name for run in runs)
    return [run.name if uses[run.name] == 1 else "/".join(run.directory.parts[-2:]) for run in runs]


def _as_json(charts: Sequence[Chart], names: Sequence[str]) -> str:
    """Write the curves for the script as JSON in which no text can be read as a tag."""
    data = {"runs": names, "charts": [asdict(chart) for chart in charts]}
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _environment() -> jinja2.Environment:
    environment = make_environment("minicpmv.report")
    environment.filters |= {"excerpt": _excerpt, "sparse": _sparse}
    return environment


def _sparse(points: Sequence[Point]) -> list[Point]:
    """Return points at equal distances, as many as a table for a listener may have, with the first and the last."""
    places = {round(place) for place in np.linspace(0, len(points) - 1, min(len(points), _MOST_COLUMNS))}
    return [points[place] for place in sorted(places)]


def _excerpt(text: str) -> str:
    """Return as much of a text as a page can show."""
    hidden = len(text) - MAX_CHARACTERS
    return text if hidden <= 0 else f"{text[:MAX_CHARACTERS]} … and {hidden:,} more characters"
