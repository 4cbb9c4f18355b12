"""What a record says of its films is judged, each fault with its code; files have tests in ``test_broken_inputs``."""

from __future__ import annotations

from typing import Any

import pytest

from minicpmv.data.checks.film_values import check_film_value, check_films_of_version, film_places
from minicpmv.data.records.record import RawRecord
from minicpmv.releases.table import VERSIONS

RECORD = RawRecord(source="train.json", index=0, line=1, value={"id": "a7"})


@pytest.mark.parametrize(
    ("value", "code", "where", "found"),
    [
        (5, "D130", "video", "5"),
        ([""], "D130", "video[0]", "''"),
        ({"video": []}, "D130", "video", "[]"),
        ({"video": ["a.png", 3]}, "D130", "video", "3"),
        ({"fps": 2}, "D130", "video", "no path next to 'fps'"),
        ([{"video": None, "fps": 2, "start": 1}], "D130", "video[0]", "no path next to 'fps', 'start'"),
        (b"film", "D130", "video", "a film inside the data"),
        ({"clip": "a.mp4"}, "D131", "video", "the key 'clip'"),
        (["a.mp4", "rtsp://camera/1"], "D132", "video[1]", "an address: 'rtsp://camera/1'"),
        ({"video": "a.mp4", "fps": "two"}, "D144", "video.fps", "'two'"),
        ({"video": "a.mp4", "times": [2, 1]}, "D144", "video.times", "1 behind 2"),
        ({"<video_00>": {"video": "a.mp4", "max_frames": 0}}, "D144", "video['<video_00>'].max_frames", "0"),
    ],
)
def test_each_fault_has_its_code_and_place(value: Any, code: str, where: str, found: str) -> None:
    (problem,) = check_film_value(RECORD, value)
    assert (problem.code, problem.found) == (code, found)
    assert problem.where == f"train.json:1 record 0 (id 'a7') {where}"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "a.mp4",
        ["a.mp4"],
        {"video": ["a.png"], "fps": 2},
        {"<video>": "a.mp4"},
        {"<video_3>": "a", "<video_4>": "b"},
    ],
)
def test_every_form_is_sound(value: Any) -> None:
    assert not list(check_film_value(RECORD, value))
    assert len(film_places(value)) == (0 if not value else 2 if "<video_3>" in value else 1)


def test_releases_without_films_refuse_them_with_their_reason() -> None:
    (problem,) = check_films_of_version(RECORD, "a.mp4", VERSIONS["2.5"])
    assert problem.code == "D153"
    assert VERSIONS["2.5"].reading.no_films in problem.expected
    assert not list(check_films_of_version(RECORD, None, VERSIONS["2.5"]))
    assert not list(check_films_of_version(RECORD, "a.mp4", VERSIONS["2.6"]))
