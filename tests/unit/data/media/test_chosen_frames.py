from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.data.media import chosen_frames
from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import Film, inspect_film, read_frames
from minicpmv.processing.films.request import FilmRequest
from tests.films import draw_number, make_film, number_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2, 9, 10, 11):
        draw_number(number).save(tmp_path / f"f{number}.png")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    return tmp_path


def _fault(film: Film) -> FilmError:
    with pytest.raises(FilmError) as caught:
        inspect_film(film)
    return caught.value


def test_a_folder_is_a_film_in_natural_order_a_frame_each_second(folder: Path) -> None:
    film = Film(source=str(folder))
    facts = inspect_film(film)
    assert (facts.frame_times, facts.duration, facts.rate) == ((0.0, 1.0, 2.0, 3.0, 4.0), 5.0, 1.0)
    assert (facts.num_frames, facts.size, facts.is_chosen) == (5, (64, 48), True)
    shown = read_frames(film, [0.0, 1.5, 1.9, 4.0])
    assert [number_of(frame) for frame in shown] == [1, 2, 2, 11]
    assert shown[1] is shown[2]


def test_a_list_keeps_its_order(folder: Path) -> None:
    film = Film(source=tuple(str(folder / f"f{number}.png") for number in (9, 1, 9)))
    assert [number_of(frame) for frame in read_frames(film, [0.0, 1.0, 2.0])] == [9, 1, 9]


def test_rate_and_times_are_those_asked_for(folder: Path) -> None:
    fast = inspect_film(Film(source=str(folder), request=FilmRequest(fps=2.0)))
    assert (fast.frame_times, fast.duration, fast.rate) == ((0.0, 0.5, 1.0, 1.5, 2.0), 2.5, 2.0)
    timed = Film(source=str(folder), request=FilmRequest(times=(0.0, 1.0, 5.0, 6.0, 20.0)))
    facts = inspect_film(timed)
    assert (facts.frame_times, facts.duration) == ((0.0, 1.0, 5.0, 6.0, 20.0), 25.0)
    assert [number_of(frame) for frame in read_frames(timed, [4.9, 5.0])] == [2, 9]


def test_faults_name_the_picture(folder: Path) -> None:
    assert _fault(Film(source=())).kind == "no frames"
    (folder / "none").mkdir()
    assert _fault(Film(source=str(folder / "none"))).found == "a folder without pictures"
    listed = Film(source=(str(folder / "f1.png"), str(folder / "f3.png")))
    assert (_fault(listed).kind, _fault(listed).found) == ("a picture", "no such file")
    draw_number(3, (96, 48)).save(folder / "f3.png")
    assert (_fault(listed).kind, _fault(listed).second) == ("size changes", 1.0)
    (folder / "f3.png").write_bytes(b"no picture")
    assert (_fault(listed).kind, _fault(listed).where) == ("a picture", str(folder / "f3.png"))
    make_film(folder / "a.mp4", num_frames=2)
    among = _fault(Film(source=(str(folder / "f1.png"), str(folder / "a.mp4"))))
    assert (among.kind, among.found) == ("a picture", "a video among the frames")
    assert among.fix.startswith("name each film by itself")
    with pytest.raises(FilmError) as caught:
        read_frames(listed, [0.0, 1.0])
    assert (caught.value.kind, caught.value.second) == ("a picture", 1.0)


def test_a_folder_with_anything_else_is_refused(folder: Path) -> None:
    (folder / "labels.txt").write_text("x")
    assert _fault(Film(source=str(folder))).found == "'labels.txt' among the frames"


def test_too_many_pictures_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_frames, "MAX_PICTURES", 4)
    assert _fault(Film(source=str(folder))).kind == "too long"
