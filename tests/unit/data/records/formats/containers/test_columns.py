"""A value of a table is learnt as the CSV file of the table has it, which its column decides; a column has one name."""

from __future__ import annotations

import copy
import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data.records.formats.containers.columns import find_forms, spell_cells
from minicpmv.data.records.reading import open_records
from minicpmv.data.sources.in_memory import hold_records, load_held
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from tests.unit.data.records.formats.containers.test_class_labels import Dataset

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
pq = pytest.importorskip("pyarrow.parquet")

DAY = pd.Timestamp("2024-01-02")


def answers_of(records: Any) -> list[str]:
    return [record.turns[1].text for record in records]


@pytest.mark.parametrize(
    "column",
    [
        np.array([0.1, 1e-5, 3.0], np.float16),
        np.array([0.1, 1e-7, 16777216.0], np.float32),
        np.array([0.1, 2.0**-13, 0.00390625, 0.0999755859375]),
        [datetime.date(2024, 1, 2), datetime.date(2024, 11, 30)],
        [DAY, pd.Timestamp("2024-01-03")],
        [DAY, pd.Timestamp("2024-01-03 10:00")],
        [DAY, pd.Timestamp("2024-01-03 10:00:00.5")],
        [DAY, pd.Timestamp("2024-01-03 10:00:00.0005")],
        [DAY, pd.Timestamp("2024-01-03 10:00:00.000000005")],
        [DAY.tz_localize("UTC"), pd.Timestamp("2024-01-03T00:00Z")],
        [DAY.tz_localize("Europe/Berlin")],
        [datetime.time(3, 4), datetime.time(3, 4, 5, 600)],
    ],
)
def test_value_is_what_the_csv_file_of_its_table_says(column: Any, tmp_path: Path) -> None:
    table = pd.DataFrame({"answer": column})
    table.insert(0, "question", "Which?")
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    written = answers_of(load_records(tmp_path / "a.csv"))
    assert answers_of(load_held(table, name="data")) == written
    assert answers_of(load_records(tmp_path / "a.parquet")) == written
    opened = open_records(tmp_path / "a.parquet")
    assert list(copy.deepcopy(opened)) == list(opened)


@pytest.mark.parametrize(("value", "text"), [("0.50", "0.50"), ("0E-8", "0.00000000"), ("-12", "-12")])
def test_decimal_is_learnt_with_every_digit_and_no_exponent(value: str, text: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["How much?"], "answer": [Decimal(value)]}), tmp_path / "a.parquet")
    assert answers_of(load_records(tmp_path / "a.parquet")) == [text]


def test_entries_of_a_list_are_spelled_by_its_type(tmp_path: Path) -> None:
    answers = pa.array([[0.1, 0.25]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"question": ["How much?"], "answers": answers}), tmp_path / "a.parquet")
    (record,) = load_records(tmp_path / "a.parquet")
    assert record.references == ("0.1", "0.25")


def test_data_set_of_datasets_says_the_types_of_its_columns() -> None:
    features = {"answer": {"dtype": "timestamp[us]", "_type": "Value"}}
    rows = [{"question": "When?", "answer": datetime.datetime(2024, 1, day)} for day in (2, 3)]
    assert answers_of(load_held(Dataset(rows, features), name="data")) == ["2024-01-02", "2024-01-03"]
    features = {"answers": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}}
    (record,) = load_held(Dataset([{"question": "?", "answers": [float(np.float32(0.1))]}], features), name="data")
    assert record.references == ("0.1",)


@pytest.mark.parametrize("column", [[float("inf")], np.array([np.inf], np.float32)])
def test_infinity_is_no_answer(column: Any) -> None:
    with pytest.raises(DataError, match="D124"):
        load_held(pd.DataFrame({"question": ["?"], "answer": column}), name="data")


def test_two_columns_of_one_name_are_refused_by_every_reader(tmp_path: Path) -> None:
    rows, names = [["Why?", "So.", "No."]], ["question", "answer", "answer"]
    table = pd.DataFrame(rows, columns=names)
    table.to_csv(tmp_path / "a.csv", index=False)
    columns = [pa.array([cell]) for cell in rows[0]]
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "a.parquet")
    for load in (
        lambda: hold_records(table, name="data"),
        lambda: open_records(tmp_path / "a.csv"),
        lambda: open_records(tmp_path / "a.parquet"),
    ):
        with pytest.raises(DataError, match="D173") as caught:
            load()
        assert caught.value.problems[0].found == "the column 'answer' more than once"


@pytest.mark.parametrize("kind", ["datetime64[us]", "timestamp[us][pyarrow]", "float[pyarrow]", "float16"])
def test_missing_value_of_a_column_stays_missing(kind: str) -> None:
    is_time = "time" in kind
    for missing in (None, pd.NaT, pd.NA, float("nan")):
        cells = [DAY if is_time else 0.5, missing]
        forms = find_forms({"answer": kind}, lambda _name, cells=cells: cells)
        written = [spell_cells({"answer": cell}, forms)["answer"] for cell in cells]
        assert written[0] == ("2024-01-02" if is_time else "0.5")
        assert written[1] is missing


def test_number_of_a_choice_is_not_spelled() -> None:
    assert find_forms({"question": "string", "choices": "list", "answer": "float"}, lambda _name: []) == {}
