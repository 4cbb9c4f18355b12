from __future__ import annotations

import pytest

from minicpmv.data.records import Record
from minicpmv.errors import UsageError
from minicpmv.processing.chat import Turn
from minicpmv.report.selection import select_records


def records(*ids: str | int | None) -> list[Record]:
    turns = (Turn("user", ("a",)), Turn("assistant", ("b",)))
    return [Record(source="train.json", index=index, id=name, turns=turns) for index, name in enumerate(ids)]


def places(chosen: list[Record]) -> list[int]:
    return [record.index for record in chosen]


def test_a_name_is_an_id_or_else_a_position() -> None:
    assert places(select_records(records("a", "0", 7, None), names=["0", "7", "3", "0"])) == [1, 2, 3]


@pytest.mark.parametrize("name", ["4", "-1", "b", "²"])
def test_a_name_that_fits_no_record_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"--record: found .*expected an id or a position from 0 to 3"):
        select_records(records("a", "0", 7, None), names=[name])


def test_a_sample_stands_in_the_order_of_the_file_and_follows_the_seed() -> None:
    many = records(*[None] * 50)
    drawn = [places(select_records(many, sample=5, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert len(set(drawn[0])) == 5
    assert drawn[0] != drawn[2]


def test_a_sample_larger_than_the_file_is_the_file() -> None:
    assert places(select_records(records("a", "b"), sample=8)) == [0, 1]
