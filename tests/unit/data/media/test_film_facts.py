"""Facts of films come back as they were, and each film is opened once."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.data.media import film_facts
from minicpmv.data.media.film_facts import FilmFactsList, FilmReader, FilmUse, files_of, word_film_fault
from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.records.file_state import FileStates
from minicpmv.data.records.record import Film
from minicpmv.errors import UsageError
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.request import FilmRequest
from tests.tiny import save_picture

FACTS = [
    FilmFacts(duration=10.04, rate=25.0, num_frames=251, size=(640, 360)),
    FilmFacts(duration=3.0, rate=29.97, num_frames=None, size=(90, 160)),
    FilmFacts(duration=1.5, rate=2.0, num_frames=3, size=(5, 4), frame_times=(0.0, 0.4, 1.1), is_chosen=True),
]


def test_facts_come_back_from_numbers() -> None:
    facts = FilmFactsList()
    for of_record in ([], FACTS[:2], [], FACTS[2:]):
        facts.append(of_record)
    for each in (facts, FilmFactsList.from_arrays(*facts.as_arrays())):
        assert list(each) == [(), tuple(FACTS[:2]), (), tuple(FACTS[2:])]


def use(film: Film, record: int = 0) -> FilmUse:
    return FilmUse(record=record, where=f"record {record} video", film=film)


def test_a_film_is_opened_once_and_its_fault_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        save_picture(tmp_path / "a" / f"{number}.png")
    opened: list[str] = []
    look = film_facts.inspect_film

    def counting(film: Film) -> FilmFacts:
        opened.append(film.name)
        return look(film)

    monkeypatch.setattr(film_facts, "inspect_film", counting)
    good, gone = Film(source=str(tmp_path / "a")), Film(source=str(tmp_path / "gone"))
    late = Film(source=good.source, request=FilmRequest(start=50.0))
    states = FileStates()
    reader = FilmReader(states)
    first = reader.read([use(good), use(gone, 1), use(late, 2)])
    again = reader.read([use(gone, 3), use(good, 4)])
    assert first[0] is not None
    assert first[0] == again[1]
    assert first[1:] == [None, None]
    assert sorted(opened) == sorted([good.name, gone.name, late.name])
    problems = dict(reader.problems())
    assert {number: problem.code for number, problem in problems.items()} == {1: "D145", 2: "D144"}
    assert "1 more use" in problems[1].found
    assert problems[2].where == "record 2 video.start"
    assert len(states.as_arrays()[1]) == 5  # two pictures, twice, and what is not there


def test_the_first_of_each_kind_that_asks_for_more_than_its_film_has_is_noticed(tmp_path: Path) -> None:
    save_picture(tmp_path / "a" / "0.png")
    source = str(tmp_path / "a")
    reader = FilmReader()
    asked = [FilmRequest(end=9.0), FilmRequest(end=1.0), FilmRequest(end=8.0)]
    facts = reader.read([use(Film(source=source, request=request), number) for number, request in enumerate(asked, 4)])
    assert None not in facts
    assert not reader.problems()
    ((record, notice),) = reader.notices()
    assert (record, notice.code, notice.severity) == (4, "D309", "notice")
    assert (notice.where, notice.found) == ("record 4 video.end", "9 (and 1 more film)")


def test_kinds_of_faults_have_codes() -> None:
    def code(kind: film_facts.FilmError | str) -> str:
        error = FilmError(kind, where="a.mp4", found="x", expected="y", fix="z")  # pyright: ignore[reportArgumentType]
        return word_film_fault("here", error).code

    assert [code(kind) for kind in ("missing", "not local", "ends early", "damaged", "no pictures")] == [
        "D145",
        "D132",
        "D147",
        "D146",
        "D146",
    ]


def test_what_decodes_films_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(film: Film) -> FilmFacts:
        raise FilmError("not installed", where=film.name, found="no PyAV", expected="it", fix="pip install av")

    monkeypatch.setattr(film_facts, "inspect_film", refuse)
    with pytest.raises(UsageError, match="pip install av"):
        FilmReader().read([use(Film(source="a.mp4"))])


def test_files_of_a_film_are_those_that_it_is_read_from(tmp_path: Path) -> None:
    save_picture(tmp_path / "a" / "1.png")
    assert files_of(Film(source=str(tmp_path / "a"))) == [str(tmp_path / "a" / "1.png")]
    assert files_of(Film(source="a.mp4")) == ["a.mp4"]
    assert files_of(Film(source=("a.png", "b.png"))) == ["a.png", "b.png"]
