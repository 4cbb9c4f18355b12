from __future__ import annotations

from dataclasses import replace

import pytest

from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.plan import FilmPlan, plan_film
from minicpmv.processing.films.request import FilmRequest
from minicpmv.releases.row import FilmRule
from minicpmv.releases.table import VERSIONS

_FILM = FilmFacts(duration=20.0, rate=25.0, num_frames=500, size=(640, 360))
_PICTURES = FilmFacts(
    duration=5.0, rate=1.0, num_frames=5, size=(640, 360), frame_times=(0.0, 1.0, 2.0, 3.0, 4.0), is_chosen=True
)


def _rule(name: str) -> FilmRule:
    rule = VERSIONS[name].reading.films
    assert rule is not None
    return rule


def test_a_clip_is_planned_like_a_film_that_begins_with_it() -> None:
    request = FilmRequest(start=4.5, end=8.0)
    assert plan_film(_FILM, request, _rule("2.6")).times == (4.5, 5.5, 6.5, 7.5)
    plan = plan_film(_FILM, request, _rule("4.5"))
    alone = plan_film(replace(_FILM, duration=3.5, num_frames=None), FilmRequest(), _rule("4.5"))
    assert plan.time_ids == alone.time_ids
    assert plan.times == tuple(4.5 + time for time in alone.times)


def test_an_end_behind_the_film_is_its_end() -> None:
    assert plan_film(_FILM, FilmRequest(start=18.0, end=99.0), _rule("4.6")).times == (18.0, 19.0)


def test_times_are_taken_as_they_are_asked_for() -> None:
    plan = plan_film(_FILM, FilmRequest(times=(0.5, 4.3, 19.9)), _rule("4.5"))
    assert plan.times == (0.5, 4.3, 19.9)
    assert plan.temporal_ids == [[5], [42], [199]]
    assert plan_film(_FILM, FilmRequest(times=(0.5, 4.3)), _rule("2.6")).temporal_ids is None


def test_chosen_pictures_are_all_taken_up_to_the_most() -> None:
    for name in ("2.6", "4.5", "4.6"):
        assert plan_film(_PICTURES, FilmRequest(), _rule(name)).times == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert plan_film(_PICTURES, FilmRequest(max_frames=2), _rule("2.6")).times == (1.0, 3.0)
    assert plan_film(_PICTURES, FilmRequest(start=1.5, end=4.0), _rule("2.6")).times == (2.0, 3.0)
    assert plan_film(_PICTURES, FilmRequest(start=1.2, end=1.4), _rule("2.6")).times == (1.2,)  # shows the second


def test_time_ids_are_the_released_ones_with_their_376_faults() -> None:
    facts = FilmFacts(duration=600.0, rate=10.0, num_frames=6000, size=(64, 64))
    ids: list[int] = []
    for start in range(0, 6000, 2000):
        times = tuple(number / 10 for number in range(start, start + 2000))
        ids += plan_film(facts, FilmRequest(times=times), _rule("4.5")).time_ids or ()
    wrong = [number for number, found in enumerate(ids) if found != number]
    assert len(wrong) == 376
    assert wrong[:5] == [43, 81, 86, 91, 162]
    assert all(ids[number] == number - 1 for number in wrong)


def test_no_time_id_lies_behind_the_film() -> None:
    facts = FilmFacts(duration=0.98, rate=50.0, num_frames=49, size=(64, 64))
    assert plan_film(facts, FilmRequest(times=(0.97,)), _rule("4.5")).time_ids == (9,)


def test_thinning_keeps_frames_spread_evenly_with_their_ids() -> None:
    plan = FilmPlan(times=tuple(map(float, range(10))), size=(64, 64), group=3, time_ids=tuple(range(0, 100, 10)))
    thin = plan.thin(4)
    assert thin.times == (1.0, 3.0, 6.0, 8.0)
    assert thin.temporal_ids == [[10, 30, 60], [80]]
    assert plan.thin(10) is plan
    assert plan.thin(0).times == (5.0,)


def test_larger_groups_need_fewer_blocks() -> None:
    plan = plan_film(_FILM, FilmRequest(), _rule("4.5"))
    assert (len(plan.times), plan.num_blocks, plan.regroup(6).num_blocks) == (60, 60, 10)
    assert plan.regroup(6).times == plan.times
    with pytest.raises(AssertionError, match="no groups"):
        plan_film(_FILM, FilmRequest(), _rule("2.6")).regroup(2)
