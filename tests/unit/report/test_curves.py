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
    assert list(charts) == ["loss", "eval_anls", "learning_rate", "grad_norm", "memory_gib", "grad_norm_parts"]
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
