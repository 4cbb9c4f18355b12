from __future__ import annotations

import os
from pathlib import Path

import pytest

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import Film, inspect_film, read_frames
from minicpmv.processing.films.plan import plan_film
from minicpmv.processing.films.request import FilmRequest
from minicpmv.releases.table import VERSIONS
from tests.films import make_film, number_of


def _fault(source: str) -> FilmError:
    with pytest.raises(FilmError) as caught:
        inspect_film(Film(source=source))
    return caught.value


def test_a_film_is_called_by_its_path_or_its_first_picture() -> None:
    assert Film(source="a.mp4").name == "a.mp4"
    assert Film(source=("a.png", "b.png")).name == "a.png and 1 more"
    assert Film(source=()).name == "an empty list of pictures"


def test_what_is_not_there_or_not_local_is_named(tmp_path: Path) -> None:
    for address in ("http://x.example/a.mp4", "rtsp://x/y", "file:///etc/passwd", "data:video/mp4;base64,AAAA"):
        assert _fault(address).kind == "not local"
    make_film(tmp_path / "film1.mp4", num_frames=2)
    missing = _fault(str(tmp_path / "filn1.mp4"))
    assert missing.kind == "missing"
    assert "film1.mp4" in missing.fix
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "a named pipe" in _fault(str(tmp_path / "pipe.mp4")).found
    assert _fault("/dev/zero").kind == "missing"
    assert _fault("a\0b.mp4").kind == "missing"


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("2.6", [0, 25, 50, 75, 100, 125, 150]),
        ("4.5", [4, 12, 20, 29, 37, 45, 53, 62, 70, 78, 87, 95, 103, 112, 120, 128, 136, 145, 153, 161]),
        ("4.6", [0, 25, 50, 75, 100, 125, 150]),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_is_read_are_the_frames_that_the_released_code_takes_by_number(
    tmp_path: Path, name: str, release: str, numbers: list[int]
) -> None:
    """From file to pixels: 166 frames at 25 a second."""
    film = Film(source=make_film(tmp_path / name, num_frames=166), request=FilmRequest())
    rule = VERSIONS[release].reading.films
    assert rule is not None
    plan = plan_film(inspect_film(film), film.request, rule)
    assert [number_of(frame) for frame in read_frames(film, plan.times)] == numbers
