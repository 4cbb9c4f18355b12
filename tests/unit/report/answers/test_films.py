"""Films of a report are strips of a few frames with their times; one that cannot be shown says why."""

from __future__ import annotations

from pathlib import Path

from minicpmv.report.answers.films import Films, read_films
from tests.films import make_film
from tests.tiny import save_picture


def test_a_strip_has_frames_at_the_times_that_the_model_was_shown(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", num_frames=50)
    for number in range(3):
        save_picture(tmp_path / f"{number}.png", 60, 40, seed=number)
    films = read_films(
        [
            {"video": "a.mp4", "shown_at": [0.0, 0.5, 1.5]},
            {"video": ["0.png", "1.png", "2.png"], "fps": 2, "shown_at": [0.0, 1.0]},
        ]
    )
    film, pictures = Films(tmp_path).of(films)
    assert [frame.time for frame in film.frames] == [0.0, 0.5, 1.5]
    assert len({frame.url for frame in film.frames}) == 3
    assert (film.name, film.num_hidden, film.fault) == ("a.mp4", 0, "")
    first, last = Films(tmp_path).of(read_films([{"video": [f"{n}.png"], "shown_at": [0.0]} for n in (0, 2)]))
    assert [frame.url for frame in pictures.frames] == [first.frames[0].url, last.frames[0].url]


def test_a_long_film_shows_a_few_frames_and_counts_the_others(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", num_frames=50)
    (strip,) = Films(tmp_path).of(read_films([{"video": "a.mp4", "shown_at": [each / 25 for each in range(50)]}]))
    assert len(strip.frames) + strip.num_hidden == 50
    assert strip.frames[0].time < 0.2 < 1.7 < strip.frames[-1].time


def test_a_film_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    films = read_films([{"video": name, "shown_at": [0]} for name in ("a/none.mp4", "bad.mp4")])
    missing, bad = Films(tmp_path).of(films)
    assert (missing.name, missing.frames, missing.fault) == ("none.mp4", (), "no such file")
    assert "FFmpeg recognises no film" in bad.fault


def test_lines_of_another_form_have_no_films() -> None:
    for value in (
        None,
        "a.mp4",
        [3],
        [{"video": "a.mp4"}],
        [{"video": "a.mp4", "shown_at": ["x"]}],
        [{"shown_at": [0]}],
    ):
        assert read_films(value) == []
    assert read_films([{"video": "a.mp4", "shown_at": [1.0, 0.5]}]) == []
    assert read_films([{"video": "a.mp4", "shown_at": [0.0], "fps": "x"}]) == []
