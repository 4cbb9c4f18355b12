from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.record import Record
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError, UsageError
from minicpmv.show.selection import select_records
from tests.tiny import conversation, write_data

BROKEN = [{"role": "user", "content": "Why?"}]


def survey_of(folder: Path, *records: dict[str, Any]) -> Survey:
    talk = conversation("Why?", "So.")
    survey = Survey([write_data(folder / "train.json", [{"conversations": talk, **record} for record in records])])
    survey.read_texts()
    survey.read_images()
    survey.read_films()
    return survey


def with_ids(folder: Path, *ids: str | int | None) -> Survey:
    return survey_of(folder, *({"id": name} for name in ids))


def places(chosen: list[Record]) -> list[int]:
    return [record.index for record in chosen]


def test_a_name_is_an_id_or_else_a_position(tmp_path: Path) -> None:
    survey = with_ids(tmp_path, "a", "0", 7, None)
    assert places(select_records(survey, names=["0", "7", "3", "0", "1"])) == [1, 2, 3]


def test_an_id_stands_for_all_records_that_have_it(tmp_path: Path) -> None:
    talks = [conversation(f"Why {number}?", "So.") for number in range(4)]
    records = [{"id": name, "conversations": talk} for name, talk in zip("abab", talks, strict=True)]
    assert places(select_records(survey_of(tmp_path, *records), names=["b"])) == [1, 3]


@pytest.mark.parametrize("name", ["4", "-1", "b", "²", ""])
def test_a_name_that_fits_no_record_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--record: found .*expected an id or a position from 0 to 3"):
        select_records(with_ids(tmp_path, "a", "0", 7, None), names=[name])


def test_a_sample_stands_in_the_order_of_the_file_and_follows_the_seed(tmp_path: Path) -> None:
    many = with_ids(tmp_path, *[None] * 50)
    drawn = [places(select_records(many, sample=5, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert len(set(drawn[0])) == 5
    assert drawn[0] != drawn[2]


def test_a_sample_larger_than_the_file_is_the_file(tmp_path: Path) -> None:
    assert places(select_records(with_ids(tmp_path, "a", "b"), sample=8)) == [0, 1]


def test_a_sample_is_drawn_from_the_sound_records(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, {"id": 0}, {"id": 1, "conversations": BROKEN}, {"id": 2, "image": "no.png"}, {"id": 3})
    assert places(select_records(survey, sample=3)) == [0, 3]


def test_broken_records_hide_no_named_one(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, {"id": "a", "conversations": BROKEN}, {"id": "b"}, {"id": "c"})
    assert places(select_records(survey, names=["c", "1"])) == [2, 1]


def test_a_broken_record_that_is_named_gives_its_problems_alone(tmp_path: Path) -> None:
    image = {"image": "no.png"}
    survey = survey_of(tmp_path, {"id": "a", "conversations": BROKEN}, {"id": "b", **image}, {"id": "c", **image})
    with pytest.raises(DataError) as raised:
        select_records(survey, names=["c"])
    (problem,) = raised.value.problems
    assert (problem.code, problem.where) == ("D141", f"{tmp_path / 'train.json'}:4 record 2 (id 'c') image")
    with pytest.raises(DataError) as raised:
        select_records(survey, names=["b", "a"])
    assert [problem.code for problem in raised.value.problems] == ["D141", "D116"]


def test_nothing_sound_gives_all_problems(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, {"conversations": BROKEN}, {"image": "no.png"})
    with pytest.raises(DataError) as raised:
        select_records(survey)
    assert [problem.code for problem in raised.value.problems] == ["D116", "D141"]
