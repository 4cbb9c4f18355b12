from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data.records.record import Record
from minicpmv.data.sources.cache import DataCache
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.mixing import DataSource, load_mixture, parse_validation_sets
from minicpmv.data.sources.validation import ValidationSplit, hold_out, parse_split
from minicpmv.errors import UsageError
from tests.tiny import conversation, save_picture, write_data


def write(folder: Path, pictures: Sequence[int | None], *, name: str = "train.json") -> str:
    """Write a record for each picture's number; None is a record of text alone."""
    records: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        question = f"Question {index}?"
        if picture is None:
            records.append({"id": f"t{index}", "conversations": conversation(question, "Yes.")})
            continue
        if not (folder / f"{picture}.png").exists():
            save_picture(folder / f"{picture}.png", 20, 20, seed=picture)
        texts = conversation(f"<image>\n{question}", f"Answer {index}.")
        records.append({"id": f"p{index}", "image": f"{picture}.png", "conversations": texts})
    return write_data(folder / name, records)


def split(path: str, written: str | None, **kwargs: Any) -> ValidationSplit:
    size = parse_split(written)
    assert size is not None
    return hold_out([load_records(path)], size, **kwargs)


def ids(records: Sequence[Record]) -> set[Any]:
    return {record.id for record in records}


def test_records_that_share_a_picture_are_on_one_side(tmp_path: Path) -> None:
    """Also through others: the picture of one pair is that of another record."""
    pictures = [index // 3 for index in range(150)]
    held_out = split(write(tmp_path, pictures), "0.2")
    measured = {record.images[0] for record in held_out.records}
    trained = {record.images[0] for record in held_out.rest[0]}
    assert measured.isdisjoint(trained)
    assert len(held_out.records) == 30
    assert len(held_out.records) + len(held_out.rest[0]) == held_out.num_records == 150


def test_records_of_one_question_without_a_picture_are_on_one_side(tmp_path: Path) -> None:
    talk = [conversation(f"Question {index % 20}?", f"Answer {index}.") for index in range(100)]
    path = write_data(tmp_path / "d.json", [{"id": str(i), "conversations": each} for i, each in enumerate(talk)])
    held_out = split(path, "0.3")
    asked = [{record.turns[0].text for record in side} for side in (held_out.records, held_out.rest[0])]
    assert len(held_out.records) == 30
    assert asked[0].isdisjoint(asked[1])


def test_the_same_records_are_held_out_wherever_they_lie_and_in_whatever_order(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    path = write(here, [*range(80), *[None] * 40])
    shutil.copytree(here, there)
    first = split(path, "0.2")
    moved = split(str(there / "train.json"), "0.2")
    assert ids(first.records) == ids(moved.records)
    assert first.sha256 == moved.sha256
    backwards = hold_out([list(load_records(path))[::-1]], parse_split("0.2"))  # type: ignore[arg-type]
    assert ids(backwards.records) == ids(first.records)


def test_nearly_the_same_records_are_held_out_when_data_are_added(tmp_path: Path) -> None:
    before = ids(split(write(tmp_path, range(200)), "0.2").records)
    after = ids(split(write(tmp_path, range(220), name="more.json"), "0.2").records)
    assert len(before & after) > 0.8 * len(before)


def test_a_kind_of_record_is_held_out_as_often_as_it_is_there(tmp_path: Path) -> None:
    held_out = split(write(tmp_path, [None if index % 4 == 0 else index for index in range(400)]), "200")
    share = np.mean([not record.images for record in held_out.records])
    assert abs(share - 0.25) < 3 * (0.25 * 0.75 / 200) ** 0.5


def test_small_data_stay_whole_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path, range(99))
    assert len(split(path, None).records) == 0
    assert len(split(path, "0.1").records) == 10
    assert len(split(write(tmp_path, range(100), name="more.json"), None).records) == 10


def test_one_picture_of_all_leaves_nothing_to_hold_out(tmp_path: Path) -> None:
    path = write(tmp_path, [7] * 120)
    assert len(split(path, None).records) == 0, "not asked for, and said"
    with pytest.raises(UsageError, match="found no part of at most 12 of 120 records that shares no picture"):
        split(path, "0.1")


@pytest.mark.parametrize("written", ["5", "9", "0.001"])
def test_all_or_none_cannot_be_held_out(written: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected at least one and not all"):
        split(write(tmp_path, range(5)), written)


@pytest.mark.parametrize("written", ["-1", "1.0", "1.5", "2.0", "much", "nan", "inf"])
def test_what_is_no_size_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match="expected a share above 0 and below 1, a number of records, or 0 for none"):
        parse_split(written)


def test_weights_count_for_training_alone(tmp_path: Path) -> None:
    path, other = write(tmp_path, range(40)), write(tmp_path, range(40, 60), name="b.json")
    mixture = load_mixture([DataSource(path, 3.0), DataSource(other, 0.5)], split=parse_split("12"))
    assert mixture.validation is not None
    assert len(mixture.validation.records) == 12
    trained, measured = (
        [int(Path(str(record.images[0])).stem) for record in records]
        for records in (mixture.records, mixture.validation.records)
    )
    assert set(measured).isdisjoint(trained)
    of_first = sum(number < 40 for number in measured)
    assert sum(number < 40 for number in trained) == 3 * (40 - of_first)
    assert sum(number >= 40 for number in trained) == (20 - (12 - of_first) + 1) // 2


def test_what_is_held_out_is_kept_for_exactly_these_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = write(tmp_path, range(120)), DataCache(tmp_path / "cache")
    size = parse_split(None)
    first = load_mixture([DataSource(path)], split=size, cache=cache)

    def look(*given: Any) -> Any:
        raise AssertionError("looked again")

    monkeypatch.setattr("minicpmv.data.sources.validation._choose", look)
    again = load_mixture([DataSource(path)], split=size, cache=cache)
    assert first.validation is not None
    assert again.validation is not None
    assert again.validation.sha256 == first.validation.sha256
    with pytest.raises(AssertionError, match="looked again"):
        load_mixture([DataSource(path)], split=parse_split("0.3"), cache=cache)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["a/val.json"], [""]),
        (["one=a/val.json"], ["one"]),
        (["a/val.json", "b/test set.jsonl"], ["val", "test_set"]),
        (["one=a/val.json", "one=b/val.json", "c.json"], ["one", "c"]),
        ([], []),
    ],
)
def test_sets_are_called_by_name_or_file(written: list[str], names: list[str]) -> None:
    assert list(parse_validation_sets(written, flag="--eval_data_path")) == names


@pytest.mark.parametrize(
    "written", [["a/val.json", "b/val.json"], ["val=x.json", "b/val.json"], ["b/val.json", "val=x"]]
)
def test_two_sets_of_one_name_are_refused(written: list[str]) -> None:
    with pytest.raises(UsageError, match=r"two sets that would be called 'val'(.|\n)*fix: write val1="):
        parse_validation_sets(written, flag="--eval_data_path")
