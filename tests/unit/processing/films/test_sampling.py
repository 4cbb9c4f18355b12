"""The frames of each release, by the formulas of its model card, worked out here a second time."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.plan import plan_film
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.films.sampling import Clip, Limits, by_seconds, in_groups
from minicpmv.releases.table import VERSIONS

_NTSC = 30000 / 1001
_FILMS = [
    (0.04, 25.0),
    (0.5, 30.0),
    (2.0, 24.0),
    (10.0, 25.0),
    (33.4, _NTSC),
    (60.0, 12.0),
    (61.0, 60.0),
    (128.0, 25.0),
    (181.3, 10.0),
    (600.0, _NTSC),
    (1000.0, 1.0),
    (7200.0, 24000 / 1001),
]
_STEPS = sorted(name for name, row in VERSIONS.items() if row.reading.films and row.reading.films.max_frames == 64)
_SECONDS = sorted(name for name, row in VERSIONS.items() if row.reading.films and row.reading.films.max_frames == 128)


def _facts(seconds: float, rate: float) -> FilmFacts:
    num_frames = max(1, round(seconds * rate))
    return FilmFacts(duration=num_frames / rate, rate=rate, num_frames=num_frames, size=(64, 48))


def _taken(name: str, seconds: float, rate: float) -> list[int]:
    """Return the numbers of the frames that are shown at the plan's times."""
    rule = VERSIONS[name].reading.films
    assert rule is not None
    plan = plan_film(_facts(seconds, rate), FilmRequest(), rule)
    return [int(time * rate + 1e-6) for time in plan.times]


def _centres(items: list[int], number: int) -> list[int]:
    return [items[int(place * (len(items) / number) + len(items) / number / 2)] for place in range(number)]


@pytest.mark.parametrize(("seconds", "rate"), _FILMS)
@pytest.mark.parametrize("name", _STEPS)
def test_a_frame_of_each_second_and_64_at_most(name: str, seconds: float, rate: float) -> None:
    """The card of 2.6, which 4.0 and the o models repeat."""
    frames = list(range(0, _facts(seconds, rate).frames, round(rate)))
    assert _taken(name, seconds, rate) == (_centres(frames, 64) if len(frames) > 64 else frames)


@pytest.mark.parametrize(("seconds", "rate"), _FILMS)
@pytest.mark.parametrize("name", _SECONDS)
def test_each_second_and_128_at_most(name: str, seconds: float, rate: float) -> None:
    """transformers 5.23, ``sample_frames``."""
    num_frames = _facts(seconds, rate).frames
    duration = num_frames / rate
    expected = [int(second * rate) for second in range(math.ceil(duration))]
    if duration > 128:
        ticks = [round(tick * 0.1, 1) for tick in range(int(duration / 0.1))]
        frames = [min(int(tick * rate), num_frames - 1) for tick in ticks]
        expected = [frames[place] for place in np.linspace(0, len(frames) - 1, 128, dtype=int)]
    assert _taken(name, seconds, rate) == expected


@pytest.mark.parametrize(("seconds", "rate"), _FILMS)
def test_three_a_second_in_groups(seconds: float, rate: float) -> None:
    """The card of 4.5."""
    facts = _facts(seconds, rate)
    duration = facts.frames / rate
    if 3 * int(duration) <= 180:
        group, number = 1, round(min(3, round(rate)) * min(180, duration))
    else:
        group = math.ceil(duration * 3 / 180)
        number = round(duration * 3)
        if group > 3:
            group, number = 3, 540
    frames = np.array(_centres(list(range(facts.frames)), max(1, number)))
    scale = np.arange(0, duration, 0.1)
    nearest = np.array([scale[np.abs(scale - time).argmin()] for time in frames / rate])
    rule = VERSIONS["4.5"].reading.films
    assert rule is not None
    plan = plan_film(facts, FilmRequest(), rule)
    assert [int(time * rate + 1e-6) for time in plan.times] == frames.tolist()
    assert plan.group == group
    assert plan.time_ids == tuple((nearest / 0.1).astype(np.int32).tolist())


def test_the_numbers_of_three_films_as_written_down() -> None:
    """Literal, so that a fault that test and code share would show."""
    assert _taken("2.6", 5.0, 25.0) == [0, 25, 50, 75, 100]
    assert _taken("2.6", 100.0, 25.0)[:4] == [0, 50, 75, 125]
    assert _taken("2.6", 100.0, 25.0)[-1] == 2475
    assert _taken("4.6", 2.5, _NTSC) == [0, 29, 59]
    assert _taken("4.6", 200.0, 25.0)[:3] == [0, 37, 77]
    assert _taken("4.6", 200.0, 25.0)[-1] == 4997
    assert _taken("4.5", 1.0, 24.0) == [4, 12, 20]


@pytest.mark.parametrize("name", [name for name, row in VERSIONS.items() if row.reading.films])
def test_any_film_gives_frames_within_it_in_order(name: str) -> None:
    rule = VERSIONS[name].reading.films
    assert rule is not None
    for seconds in (0.001, 0.1, 1.0, 128.04, 5000.0):
        for rate in (0.2, 1.0, 8.68, 240.0):
            facts = _facts(seconds, rate)
            for request in (FilmRequest(), FilmRequest(fps=30.0), FilmRequest(fps=0.1, max_frames=7)):
                plan = plan_film(facts, request, rule)
                assert 1 <= len(plan.times) <= (request.max_frames or rule.max_frames)
                assert all(before <= after for before, after in pairwise(plan.times))
                assert plan.times[0] >= 0
                assert plan.times[-1] < facts.duration
                assert plan.num_blocks <= (rule.max_blocks or rule.max_frames)


def test_more_frames_a_second_are_taken_where_they_are_asked_for() -> None:
    """Beyond the most, they lie between a tenth of a second and the asked distance apart."""
    clip = Clip(250, 25.0)
    assert by_seconds(clip, Limits(fps=5.0, max_frames=128, max_blocks=128)).indices[:3] == [0, 5, 10]
    assert len(by_seconds(clip, Limits(fps=25.0, max_frames=128, max_blocks=128)).indices) == 128


def test_fewer_frames_in_groups_need_smaller_groups() -> None:
    """200 seconds: 540 frames in threes; of 64 frames each has its block, 400 are in threes again."""
    clip = Clip(5000, 25.0)
    for most, group in ((540, 3), (64, 1), (180, 1), (181, 2), (400, 3), (1080, 4)):
        sample = in_groups(clip, Limits(fps=3.0, max_frames=most, max_blocks=180))
        assert (len(sample.indices), sample.group) == (min(most, 600), group)
