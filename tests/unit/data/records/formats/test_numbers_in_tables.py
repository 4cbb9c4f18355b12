"""A number in a text column of a table is its text, as in CSV; one in a JSON record is refused with a fix that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.sources.in_memory import load_held
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem
from tests.tiny import save_picture, write_data

NUMBERS = [0, -3, 2**40, 0.5, 2.0, 1e-7, True, False]


def answer_of(records: Any) -> str:
    return records[0].turns[1].text


def problem_of(load: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        load()
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("value", NUMBERS)
def test_number_of_a_pandas_table_is_what_its_csv_file_says(value: object, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame([{"id": 7, "question": "How many?", "answer": value}])
    table.to_csv(tmp_path / "a.csv", index=False)
    held = answer_of(load_held(table, name="data"))
    assert held == answer_of(load_records(tmp_path / "a.csv"))
    assert held == str(value)


@pytest.mark.parametrize("value", NUMBERS)
def test_number_of_a_parquet_file_is_its_text(value: object, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {"question": 3, "answer": value}
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    records = load_records(tmp_path / "a.parquet")
    assert (records[0].turns[0].text, answer_of(records)) == ("3", str(value))


def test_number_of_single_precision_has_the_digits_that_were_written(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"question": ["How many?"], "answer": arrow.array([0.1], arrow.float32())}
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    assert answer_of(load_records(tmp_path / "a.parquet")) == "0.1"


def test_number_of_a_choice_is_refused_in_a_table_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame([{"question": "Which?", "choices": ["red", "blue"], "answer": 1}])
    with pytest.raises(DataError, match="D124") as caught:
        load_held(table, name="data")
    assert "text of the choice" in caught.value.problems[0].fix


@pytest.mark.parametrize(("value", "fix"), [(3, '"3"'), (True, '"true"')])
def test_number_in_json_is_refused_with_the_text_to_write(value: object, fix: str, tmp_path: Path) -> None:
    row = {"question": "How many?", "answer": value}
    file = write_data(tmp_path / "a.json", [row])
    for load in (lambda: load_records(file), lambda: load_held([row], name="data")):
        problem = problem_of(load)
        assert (problem.code, problem.fix) == ("D124", f"write it in quotes: {fix}")


def test_fix_of_an_answer_speaks_of_no_picture(tmp_path: Path) -> None:
    file = write_data(tmp_path / "a.json", [{"question": "What?", "answer": {"a": 1}}])
    assert problem_of(lambda: load_records(file)).fix == "write the text in quotes"


@pytest.mark.parametrize(
    ("text", "name", "fix"),
    [
        ("frage,answer,id\nWhy?,So.,7\n", "a.csv", "rename the column 'frage' to 'question'"),
        ("frage,antwort\nWhy?,So.\n", "a.csv", "rename the columns that hold the question and the answer to"),
        ("image,answer\na.png,So.\n", "a.csv", "add a column 'question', such as the same instruction in each row"),
        (
            "image,label\na.png,cat\n",
            "a.csv",
            "add a column 'question', such as the same instruction in each row, and ",
        ),
        ("image,frage,label\na.png,?,cat\n", "a.csv", "rename the columns that hold the question and the answer to"),
        ('[{"frage": "Why?", "answer": "So."}]', "a.json", "rename the key 'frage' to 'question'"),
        ('[{"id": "a", "text": "Why?"}]', "a.json", "add the messages under 'conversations'"),
    ],
)
def test_row_without_a_known_question_is_told_which_column_to_rename(
    text: str, name: str, fix: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    save_picture(tmp_path / "a.png")
    problem = problem_of(lambda: load_records(tmp_path / name))
    assert problem.code == "D111"
    assert problem.fix.startswith(fix)


def test_class_is_told_to_be_the_answer(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label\na.png,cat\n")
    save_picture(tmp_path / "a.png")
    assert problem_of(lambda: load_records(tmp_path / "a.csv")).fix.endswith("rename the column 'label' to 'answer'")


@pytest.mark.parametrize("text", ["", " \n\n"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", "a header"), ("a.tsv", "a header"), ("a.jsonl", "one record on each line"), ("a.json", "a list of re")],
)
def test_empty_file_is_told_what_its_kind_holds(name: str, expected: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    problem = problem_of(lambda: load_records(tmp_path / name))
    assert (problem.code, problem.found) == ("D103", "an empty file")
    assert problem.expected.startswith(expected)
