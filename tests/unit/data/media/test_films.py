from __future__ import annotations

import os
from itertools import accumulate
from pathlib import Path

import pytest

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import Film, inspect_film, read_frames
from minicpmv.data.media.video.track import Track
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


_VARYING = list(accumulate([0] + [40] * 50 + [200] * 49))
"""Milliseconds: 25 frames a second, then 5; on average 99 steps in 11.8 seconds."""


def _taken(film: Film, release: str) -> list[int]:
    """Return the numbers of the frames that a release is shown."""
    rule = VERSIONS[release].reading.films
    assert rule is not None
    plan = plan_film(inspect_film(film), film.request, rule)
    return [number_of(frame) for frame in read_frames(film, plan.times)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.ts", "libx264", {}),
        ("a.flv", "libx264", {}),
    ],
)
def test_a_varying_rate_is_taken_by_number_in_any_container(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    """As released code does: with 99 frames in 11.8 s, every eighth; 35 of 100; one of each second's eight."""
    path = make_film(tmp_path / name, codec=codec, milliseconds=_VARYING, options=options)
    facts = inspect_film(Film(source=path))
    assert (facts.num_frames, facts.rate) == (100, pytest.approx(99 / 11.8))
    assert facts.frame_times == pytest.approx([time / 1000 for time in _VARYING], abs=1e-3)
    assert facts.duration == pytest.approx(11.9, abs=0.1)
    assert _taken(Film(source=path), "2.6") == list(range(0, 100, 8))
    assert _taken(Film(source=path), "4.5") == [int((part + 0.5) * 100 / 36) for part in range(36)]
    assert _taken(Film(source=path), "4.6") == [int(second * 99 / 11.8) for second in range(12)]
    clip = Film(source=path, request=FilmRequest(start=2.1, end=4.0))
    assert _taken(clip, "2.6") == [50, 55]  # shown at 2 s, and 5 a second from there
    assert inspect_film(clip) == facts


def test_frames_far_apart_are_all_taken_once(tmp_path: Path) -> None:
    for name in ("slides.mp4", "slides.mkv"):
        path = make_film(tmp_path / name, num_frames=3, milliseconds=[0, 40, 101_000])
        for release in ("2.6", "4.6"):
            assert _taken(Film(source=path), release) == [0, 1, 2]


def test_a_table_of_contents_tells_the_times_without_reading_the_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_film(tmp_path / "a.mp4", milliseconds=_VARYING)
    track = Track(path)
    read = track._read_times()
    track.close()
    monkeypatch.delattr(Track, "_read_times")
    assert list(inspect_film(Film(source=path)).frame_times or ()) == pytest.approx(read, abs=1e-9)


def test_a_steady_rate_is_known_as_one_whatever_the_header_states(tmp_path: Path) -> None:
    """Times are kept only of films that need them."""
    for name in ("a.mp4", "a.mkv", "a.ts"):
        path = make_film(tmp_path / name, num_frames=90, milliseconds=[number * 1000 // 30 for number in range(90)])
        facts = inspect_film(Film(source=path))
        assert (facts.num_frames, facts.frame_times) == (90, None)
        assert facts.rate == pytest.approx(30, rel=1e-3)
