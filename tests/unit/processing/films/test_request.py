from __future__ import annotations

import math
from typing import Any

import pytest

from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.request import MAX_FRAMES, FilmRequest, find_request_fault, find_request_oddity

_FILM = FilmFacts(duration=4.0, rate=25.0, num_frames=100, size=(64, 48))
_PICTURES = FilmFacts(duration=2.0, rate=1.0, num_frames=2, size=(64, 48), frame_times=(0.0, 1.0), is_chosen=True)


@pytest.mark.parametrize(
    "request_",
    [
        FilmRequest(),
        FilmRequest(start=0, end=99),
        FilmRequest(start=1.5, fps=240, max_frames=1),
        FilmRequest(times=(0.0, 3.99)),
    ],
)
def test_what_can_be_followed_has_no_fault(request_: FilmRequest) -> None:
    assert find_request_fault(request_, _FILM) is None


@pytest.mark.parametrize(
    ("asked", "field", "found"),
    [
        ({"start": -1}, "start", "-1"),
        ({"start": "1"}, "start", "'1'"),
        ({"start": math.nan}, "start", "nan"),
        ({"end": 0}, "end", "0"),
        ({"end": True}, "end", "True"),
        ({"fps": 0}, "fps", "0"),
        ({"fps": 1e9}, "fps", "1000000000.0"),
        ({"max_frames": 0}, "max_frames", "0"),
        ({"max_frames": 1.5}, "max_frames", "1.5"),
        ({"max_frames": MAX_FRAMES + 1}, "max_frames", str(MAX_FRAMES + 1)),
        ({"times": ()}, "times", "()"),
        ({"times": 5}, "times", "5"),
        ({"times": (0.0, "a")}, "times", "'a'"),
        ({"times": (1.0, 1.0)}, "times", "1 behind 1"),
        ({"times": tuple(map(float, range(MAX_FRAMES + 1)))}, "times", f"{MAX_FRAMES + 1} times"),
        ({"start": 2.0, "end": 1.0}, "end", "1"),
        ({"times": (1.0,), "fps": 2}, "fps", "fps together with times"),
    ],
)
def test_a_fault_names_its_field(asked: dict[str, Any], field: str, found: str) -> None:
    fault = find_request_fault(FilmRequest(**asked))
    assert fault is not None
    assert (fault.field, fault.found) == (field, found)


@pytest.mark.parametrize(
    ("facts", "asked", "field"),
    [
        (_FILM, FilmRequest(start=4.0), "start"),
        (_FILM, FilmRequest(times=(4.0,)), "times"),
        (_FILM, FilmRequest(times=(1.0,), max_frames=2), "max_frames"),
        (_PICTURES, FilmRequest(times=(0.5,)), "times"),
    ],
)
def test_what_lies_outside_of_the_film_is_a_fault_once_it_is_known(
    facts: FilmFacts, asked: FilmRequest, field: str
) -> None:
    assert find_request_fault(asked) is None
    fault = find_request_fault(asked, facts)
    assert fault is not None
    assert fault.field == field


@pytest.mark.parametrize(
    ("facts", "asked", "field"),
    [
        (_FILM, FilmRequest(end=4.6), "end"),
        (_FILM, FilmRequest(end=4.5), None),  # was rounded
        (_FILM, FilmRequest(fps=0.2), "fps"),
        (_FILM, FilmRequest(fps=0.25), None),
        (_FILM, FilmRequest(start=3.0, fps=0.9), "fps"),
        (_PICTURES, FilmRequest(fps=0.2), None),  # their distance
        (_PICTURES, FilmRequest(end=9.0), "end"),
    ],
)
def test_more_than_the_film_has_is_odd(facts: FilmFacts, asked: FilmRequest, field: str | None) -> None:
    assert find_request_fault(asked, facts) is None
    odd = find_request_oddity(asked, facts)
    assert (odd and odd.field) == field


def test_a_number_in_quotes_is_to_be_written_without() -> None:
    fault = find_request_fault(FilmRequest.of_fields({"fps": "2"}))
    assert fault is not None
    assert fault.fix == "write fps without quotes"
