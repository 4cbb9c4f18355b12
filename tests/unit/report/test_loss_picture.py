from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from minicpmv.report.loss_picture import draw_loss, round_ticks, smooth
from minicpmv.report.run_directory import read_run
from tests.unit.report.runs import write_run

TRAINING, HELD_OUT = (ImageColor.getrgb(colour) for colour in ("#0072b2", "#d55e00"))


def opened(run: Path) -> Image.Image:
    drawn = draw_loss(read_run(run))
    assert drawn is not None
    return Image.open(io.BytesIO(drawn))


def places(image: Image.Image, colour: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return where the colour is, or nearly: the edges of a line are mixed with what lies under it."""
    pixels = np.asarray(image)[60:612, 90:1171].astype(int)
    rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) < 60)
    return sorted(zip((columns + 90).tolist(), (rows + 60).tolist(), strict=True))


def test_both_curves_fall_from_left_to_right(tmp_path: Path) -> None:
    image = opened(write_run(tmp_path))
    assert (image.format, image.size) == ("PNG", (1200, 675))
    for colour in (TRAINING, HELD_OUT):
        inked = places(image, colour)
        first, last = inked[0], inked[-1]
        assert len(inked) > 100
        assert first[0] < last[0]
        assert first[1] < last[1]


def test_a_loss_is_drawn_at_its_height(tmp_path: Path) -> None:
    """The axis has ticks from 1 to 4, of which 4 lies at pixel 70 and 1 at 605."""
    inked = places(opened(write_run(tmp_path, log=[{"step": 1, "loss": 1.0}, {"step": 2, "loss": 4.0}])), TRAINING)
    assert min(y for _, y in inked) == pytest.approx(70, abs=4)
    assert max(y for _, y in inked) == pytest.approx(605, abs=4)


@pytest.mark.parametrize(
    "log",
    [
        [{"step": 1, "loss": 1.0}],
        [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}],
        [{"step": 0, "eval_loss": 2.0}],
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": -3e20}, {"step": 3, "loss": 7}],
    ],
)
def test_odd_logs_are_drawn(log: list[dict[str, float]], tmp_path: Path) -> None:
    assert opened(write_run(tmp_path, log=log)).size == (1200, 675)


def test_without_a_loss_nothing_is_drawn(tmp_path: Path) -> None:
    assert draw_loss(read_run(write_run(tmp_path, log=[{"step": 1, "learning_rate": 1e-3}]))) is None


@pytest.mark.parametrize(("low", "high"), [(0.07, 3.69), (0.0834, 0.378), (5, 5), (0, 0), (-2, 1e6), (1e-9, 3e-9)])
def test_ticks_are_few_and_hold_all_between_them(low: float, high: float) -> None:
    ticks = round_ticks(low, high, most=7)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 8


def test_smoothing_keeps_a_line_and_both_ends() -> None:
    line = [float(number) for number in range(100)]
    assert smooth(line) == pytest.approx(line)
    noisy = [number % 2 for number in range(100)]
    smoothed = smooth([float(number) for number in noisy])
    assert (smoothed[0], smoothed[-1]) == (0, 1)
    assert all(0.3 < value < 0.7 for value in smoothed[2:-2])
