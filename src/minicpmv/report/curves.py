"""Turns the logs of runs into charts: decides which numbers are drawn together, with which name and unit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from minicpmv.report.evaluations import Measured, measured_keys
from minicpmv.report.run_directory import Run, is_number

__all__ = ["Chart", "Point", "Series", "make_charts", "thin_out"]

_MAX_POINTS = 2000
"""Most points of one curve: more than a screen has columns, and about 40 kB."""
_OF_A_PART = "grad_norm/"

Point = tuple[int, float | None]
"""Step and value; None where the logged value is not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One curve."""

    name: str
    run: int
    """Index of the run, from 0."""
    is_measured: bool
    """Whether it comes from evaluations: few points, each of which is marked."""
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Holds curves over the same axes."""

    name: str
    title: str
    unit: str
    series: Sequence[Series]
    is_noisy: bool
    """Whether smoothing helps."""
    has_names: bool
    """Whether a curve needs its own name next to that of its run."""
    is_of_speed: bool = False
    """Whether it is about the machine and not about the model."""


_OF_PREFERENCES = {
    "rewards/accuracies": ("Pairs told apart", "share in which the better answer has the higher reward"),
    "rewards/margins": ("Margin", "reward of the better answer less that of the worse one"),
    "rewards": ("Rewards", "log-probability less that of the reference, times beta"),
    "logps": ("Log-probabilities", "nats, of a whole answer"),
}
"""Charts of a run that compares answers, by the key of their numbers or what the keys of both answers begin with."""
_OF_ANSWER = {"chosen": "better", "rejected": "worse"}
_TITLES = {
    "learning_rate": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", "before clipping"),
}
_OF_SPEED = {
    "tokens_per_second": ("Tokens per second", "all processes"),
    "samples_per_second": ("Records per second", "all processes"),
    "tflops_per_second": ("Useful operations", "TFLOP/s, one process"),
    "memory_gib": ("Memory", "GiB, largest so far"),
}


def make_charts(runs: Sequence[Run]) -> list[Chart]:
    """Make the charts of one run, or of several overlaid; charts without a number are left out."""
    charts = [_loss_chart(runs), *_preference_charts(runs), *_metric_charts(runs)]
    charts += [_chart_of(runs, name, title, unit) for name, (title, unit) in _TITLES.items()]
    charts += _part_charts(runs)
    charts += [
        replace(_chart_of(runs, name, title, unit), is_of_speed=True) for name, (title, unit) in _OF_SPEED.items()
    ]
    return [chart for chart in charts if chart.series]


def thin_out(points: Sequence[Point], most: int = _MAX_POINTS) -> Sequence[Point]:
    """Reduce the points so that a page stays small, keeping the extremes of each stretch and so every peak."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = [point for point in points[start : start + size] if point[1] is not None] or points[start : start + 1]
        ends = {min(stretch, key=_height), max(stretch, key=_height)}
        kept += sorted(ends)
    return kept


def _height(point: Point) -> float:
    return math.nan if point[1] is None else point[1]


def _loss_chart(runs: Sequence[Run]) -> Chart:
    measured = [each for each in _measured(runs) if each.metric == "loss"]
    series = [
        _series(run, number, key, name)
        for number, run in enumerate(runs)
        for key, name in (("loss", "training"), *((each.key, each.set_name or "validation") for each in measured))
    ]
    return _chart("loss", "Loss", "nats per trained token", series, is_noisy=True)


def _preference_charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """Make the charts of runs that compare answers, each with training and validation."""
    measured = _measured(runs)
    for name, (title, unit) in _OF_PREFERENCES.items():
        answers = {"": ""} if "/" in name else {f"/{answer}": f"{word}, " for answer, word in _OF_ANSWER.items()}
        series = [
            _series(run, number, key, f"{of_answer}{where}")
            for number, run in enumerate(runs)
            for end, of_answer in answers.items()
            for key, where in (
                (name + end, "training"),
                *((each.key, each.set_name or "validation") for each in measured if each.metric == name + end),
            )
        ]
        yield _chart(name.replace("/", "_"), title, unit, series, is_noisy=True)


def _is_of_preferences(metric: str) -> bool:
    return metric == "nll_loss" or metric.startswith(("rewards/", "logps/", "lengths/"))


def _metric_charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """Make a chart of each metric, with a curve for each evaluation set."""
    measured = [each for each in _measured(runs) if each.metric != "loss" and not _is_of_preferences(each.metric)]
    for metric in dict.fromkeys(each.metric for each in measured):
        title = metric.replace("_", " ")
        series = [
            _series(run, number, each.key, each.set_name or title)
            for number, run in enumerate(runs)
            for each in measured
            if each.metric == metric
        ]
        yield _chart(f"eval_{metric}".replace("/", "_"), title, "of validation answers", series, is_noisy=False)


def _measured(runs: Sequence[Run]) -> list[Measured]:
    return list(dict.fromkeys(each for run in runs for each in measured_keys(run.log)))


def _part_charts(runs: Sequence[Run]) -> list[Chart]:
    """Draw all parts in one chart for one run, and one chart for each part for several runs."""
    keys, unit = _keys(runs, _OF_A_PART), "before clipping"
    if len(runs) == 1:
        series = [_series(runs[0], 0, key, _part(key)) for key in keys]
        return [_chart("grad_norm_parts", "Gradient norm of parts", unit, series, is_noisy=True)]
    return [_chart_of(runs, key, f"Gradient norm, {_part(key)}", unit) for key in keys]


def _keys(runs: Sequence[Run], prefix: str) -> list[str]:
    return list(dict.fromkeys(key for run in runs for entry in run.log for key in entry if key.startswith(prefix)))


def _part(key: str) -> str:
    return key.removeprefix(_OF_A_PART).replace("_", " ")


def _chart_of(runs: Sequence[Run], key: str, title: str, unit: str) -> Chart:
    series = [_series(run, number, key, title) for number, run in enumerate(runs)]
    is_noisy = key.startswith("grad_norm") or key.endswith("_per_second")
    return _chart(key.replace("/", "_"), title, unit, series, is_noisy=is_noisy)


def _chart(name: str, title: str, unit: str, series: Sequence[Series], *, is_noisy: bool) -> Chart:
    drawn = [each for each in series if each.points]
    has_names = len({each.name for each in drawn}) > 1
    return Chart(name=name, title=title, unit=unit, series=drawn, is_noisy=is_noisy, has_names=has_names)


def _series(run: Run, number: int, key: str, name: str) -> Series:
    points = [(entry["step"], _rounded(entry[key])) for entry in run.log if is_number(entry.get(key))]
    return Series(name=name, run=number, is_measured=key.startswith("eval_"), points=thin_out(points))


def _rounded(value: float) -> float | None:
    """Round to visible digits; JSON has no infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
