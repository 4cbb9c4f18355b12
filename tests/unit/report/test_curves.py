from __future__ import annotations

import math
from pathlib import Path

from minicpmv.report.curves import Chart, make_charts, thin_out
from minicpmv.report.run_directory import Run, read_run
from tests.unit.report.runs import LOG, write_run


def charts_of(*runs: Run) -> dict[str, Chart]:
    return {chart.name: chart for chart in make_charts(runs)}


def test_curves_have_the_numbers_of_the_log(tmp_path: Path) -> None:
    charts = charts_of(read_run(write_run(tmp_path)))
    assert list(charts) == ["loss", "eval_anls", "learning_rate", "grad_norm", "grad_norm_parts", "memory_gib"]
    assert [name for name, chart in charts.items() if chart.is_of_speed] == ["memory_gib"]
    training, held_out = charts["loss"].series
    assert list(training.points) == [(entry["step"], entry["loss"]) for entry in LOG if "loss" in entry]
    assert list(held_out.points) == [(2, 2.5), (3, 1.5)]
    assert (training.is_measured, held_out.is_measured) == (False, True)
    assert [series.name for series in charts["grad_norm_parts"].series] == ["resampler"]


def test_several_runs_share_each_chart(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name)) for name in "ab"]
    charts = charts_of(*runs)
    assert [(series.run, series.name) for series in charts["loss"].series] == [
        (0, "training"),
        (0, "validation"),
        (1, "training"),
        (1, "validation"),
    ]
    assert charts["grad_norm_resampler"].title == "Gradient norm, resampler"
    assert all({series.run for series in chart.series} == {0, 1} for chart in charts.values())


def test_what_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": math.inf}]
    (series,) = charts_of(read_run(write_run(tmp_path, log=log)))["loss"].series
    assert list(series.points) == [(1, 1.0), (2, None), (3, None)]


def test_a_long_curve_keeps_its_peaks() -> None:
    points = [(step, float(step % 7)) for step in range(100_000)]
    points[54_321] = (54_321, 99.0)
    points[54_329] = (54_329, -99.0)
    thin = thin_out(points, most=200)
    assert len(thin) <= 200
    assert {(54_321, 99.0), (54_329, -99.0)} <= set(thin)
    assert list(thin) == sorted(thin)
    assert thin_out(points[:200], most=200) == points[:200]


def test_a_run_that_compares_answers_has_its_charts(tmp_path: Path) -> None:
    keys = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen")
    log = [{"step": step, **{key: float(step) for key in keys}} for step in (1, 2)]
    log.append({"step": 2, "eval_rewards/margins": 5.0, "eval_runtime": 1.0})
    charts = charts_of(read_run(write_run(tmp_path, log=log)))
    assert list(charts) == ["rewards_accuracies", "rewards_margins", "rewards", "logps"]
    assert [series.name for series in charts["rewards"].series] == ["better, training", "worse, training"]
    assert [(series.name, list(series.points)) for series in charts["rewards_margins"].series] == [
        ("training", [(1, 1.0), (2, 2.0)]),
        ("validation", [(2, 5.0)]),
    ]
