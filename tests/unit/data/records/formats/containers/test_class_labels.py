from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data.records.formats.containers.class_labels import UnnamedClass, find_classes, name_classes, read_classes
from minicpmv.data.records.reading import open_records
from minicpmv.data.sources.in_memory import load_held
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError

CLASSES = {"names": ["cat", "dog"], "_type": "ClassLabel"}
TEXT = {"dtype": "string", "_type": "Value"}


class Features(dict[str, Any]):
    """As ``datasets.Features``."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


class Dataset:
    """As ``datasets.Dataset``, with the part of it that is read."""

    def __init__(self, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
        self.rows, self.features = rows, Features(features)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def write_table(file: Path, rows: list[dict[str, Any]], features: dict[str, Any]) -> Path:
    """Write a Parquet file as ``datasets`` does, with its features in the schema."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(rows)
    told = json.dumps({"info": {"features": features}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": told}), file)
    return file


def test_class_is_learnt_by_its_name(tmp_path: Path) -> None:
    rows, features = [{"question": "Which?", "answer": 1}], {"question": TEXT, "answer": CLASSES}
    file = write_table(tmp_path / "a.parquet", rows, features)
    for records in (load_records(file), load_held(Dataset(rows, features), name="data")):
        assert records[0].turns[1].text == "dog"


@pytest.mark.parametrize(
    ("number", "code", "found"),
    [
        (-1, "D116", "an empty cell in the column 'answer'"),
        (2, "D124", "the number of a class without a name: 2"),
        (-2, "D124", "the number of a class without a name: -2"),
    ],
)
def test_class_without_a_name_is_no_answer(number: int, code: str, found: str, tmp_path: Path) -> None:
    rows, features = [{"question": "Which?", "answer": number}], {"answer": CLASSES}
    for load in (
        lambda: load_records(write_table(tmp_path / "a.parquet", rows, features)),
        lambda: load_held(Dataset(rows, features), name="data"),
    ):
        with pytest.raises(DataError, match=code) as caught:
            load()
        (problem,) = caught.value.problems
        assert problem.found == found
        assert problem.where.endswith("record 0 answer")
        assert code == "D116" or "names 2" in problem.expected


def test_class_without_a_name_keeps_its_number_and_survives_a_copy() -> None:
    named = name_classes(np.int64(7), ("cat", "dog"))
    copied = copy.deepcopy(named)
    assert isinstance(copied, UnnamedClass)
    assert (copied, copied.num_names, json.dumps(copied)) == (7, 2, "7")


@pytest.mark.parametrize(
    ("feature", "value", "named"),
    [
        ({"feature": CLASSES, "_type": "Sequence"}, [1, -1, 0], ["dog", None, "cat"]),
        ([{"kind": CLASSES, "text": TEXT}], [{"kind": 0, "text": "a"}], [{"kind": "cat", "text": "a"}]),
        ({"kind": CLASSES}, {"kind": 1, "other": 1}, {"kind": "dog", "other": 1}),
        (CLASSES, "dog", "dog"),
        (CLASSES, None, None),
        (CLASSES, True, True),
        (CLASSES, np.int64(1), "dog"),
    ],
)
def test_classes_are_found_wherever_they_are(feature: Any, value: object, named: object) -> None:
    classes = find_classes(feature)
    assert classes is not None
    assert name_classes(value, classes) == named


@pytest.mark.parametrize(
    "told", [None, {}, {b"pandas": b"{}"}, {b"huggingface": b"["}, {b"huggingface": b'{"info": 3}'}]
)
def test_table_that_says_nothing_of_classes_keeps_its_numbers(told: Any, tmp_path: Path) -> None:
    assert read_classes(told) == {}
    file = write_table(tmp_path / "a.parquet", [{"question": "How many?", "answer": 1}], {"answer": TEXT})
    (record,) = open_records(file)
    assert isinstance(record.value, dict)
    assert load_records(file)[0].turns[1].text == "1"
