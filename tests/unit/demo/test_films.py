"""What the demo's films show: no single frame, and no shuffled film, answers their question."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.data.media.films import Film as FilmFile
from minicpmv.data.media.films import inspect_film, read_frames
from minicpmv.demo import films
from minicpmv.demo.films import FILM_COLOURS, Film, draw_film, picture_of, write_films

DRAWN = [draw_film("heldout", number) for number in range(400)]
ORDERS = [film for film in DRAWN if "last" in film.question]


def answer_of(film: Film) -> str:
    """Answer the question from the seconds alone."""
    runs = [disc.colour for disc, _ in groupby(film.seconds) if disc is not None]
    return runs[-1] if "last" in film.question else films.COUNTS[len(runs) - 1]


def colour_of(picture: Image.Image) -> str | None:
    """Name the colour that a picture shows; None if it is dark. Encoders move colours a little."""
    levels = {level for _, level in picture.convert("RGB").getcolors(56 * 56) or [] if isinstance(level, tuple)}
    found = max(levels, key=lambda level: max(level) - min(level))
    distance = {name: sum(abs(a - b) for a, b in zip(found, own, strict=True)) for name, own in FILM_COLOURS.items()}
    nearest = min(distance, key=lambda name: distance[name])
    return nearest if distance[nearest] < 60 else None


def test_the_seconds_give_the_answer() -> None:
    assert [answer_of(film) for film in DRAWN] == [film.answer for film in DRAWN]


def test_every_film_is_as_long_and_ends_dark() -> None:
    assert {film.seconds[-1] for film in DRAWN} == {None}
    assert {len(film.seconds) for film in DRAWN} == {films.SECONDS}


def test_answers_are_equally_frequent() -> None:
    counts = Counter(film.answer for film in DRAWN)
    assert {counts[colour] for colour in FILM_COLOURS} == {40}
    assert {counts[count] for count in films.COUNTS} == {50}


def test_the_colours_of_a_film_do_not_tell_the_last_one() -> None:
    """The last colour stands as often at each place of the film's colours in alphabetical order as chance has it."""
    shown = [(sorted({disc.colour for disc in film.seconds if disc}), film.answer) for film in ORDERS]
    hits, chance = sum(names[0] == answer for names, answer in shown), sum(1 / len(names) for names, _ in shown)
    assert hits == pytest.approx(chance, rel=0.2)


def test_counted_lights_are_the_same_frames_whatever_their_number() -> None:
    """So nobody counts them in a shuffled film."""
    for film in DRAWN[1::2]:
        lit = [disc for disc in film.seconds if disc is not None]
        assert (len(lit), len(set(lit))) == (4, 1)


def test_no_held_out_film_is_trained_on() -> None:
    trained = {draw_film("train", number).seconds for number in range(films.FILMS_OF_SPLIT["train"])}
    assert not trained & {film.seconds for film in DRAWN}


def test_written_films_show_each_second_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(films.FILMS_OF_SPLIT, "heldout", 4)
    records = json.loads(write_films(tmp_path, "heldout").read_text())
    assert [record["id"] for record in records] == [f"heldout-{number:04d}" for number in range(4)]
    for record, drawn in zip(records, DRAWN, strict=False):
        film = FilmFile(source=str(tmp_path / record["video"]))
        facts = inspect_film(film)
        assert (facts.duration, facts.rate) == (films.SECONDS, films.RATE)
        frames = read_frames(film, [float(second) for second in range(films.SECONDS)])
        assert [colour_of(frame) for frame in frames] == [colour_of(picture_of(second)) for second in drawn.seconds]
        assert record["conversations"] == [
            {"role": "user", "content": f"<video>\n{drawn.question}"},
            {"role": "assistant", "content": drawn.answer},
        ]
