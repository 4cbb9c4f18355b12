from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from minicpmv.data.records.reading import open_records
from minicpmv.data.sources.in_memory import hold_records, load_held
from minicpmv.data.sources.loading import check_records, load_records
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError, Problem
from tests.tiny import conversation, save_picture, write_data


def write_csv(file: Path, images: list[str]) -> Path:
    save_picture(file.parent / "a.png")
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["question", "image", "answer"])
        rows.writerows([f"Why {number}?", image, "So."] for number, image in enumerate(images))
    return file


def notices_of(file: Path) -> list[Problem]:
    """Return what training says of empty cells, which is what a check says."""
    told = [each for each in check_records(open_records(file)).notices if each.code == "D322"]
    survey = Survey([str(file)])
    survey.read_texts()
    assert [found.problem for found in survey.findings if found.problem.code == "D322"] == told
    return told


def test_rows_without_a_picture_are_counted_once_for_each_table(tmp_path: Path) -> None:
    (notice,) = notices_of(write_csv(tmp_path / "a.csv", ["a.png", "", "a.png", ""]))
    assert notice.where == f"{tmp_path / 'a.csv'}:3 record 1 image"
    assert notice.found == "no picture in 2 of 4 rows, of which this is the first"
    assert notice.severity == "notice"


def test_table_whose_rows_all_have_a_picture_or_no_column_for_one_gets_no_notice(tmp_path: Path) -> None:
    assert notices_of(write_csv(tmp_path / "a.csv", ["a.png", "a.png"])) == []
    (tmp_path / "b.csv").write_text("question,answer\nWhy?,So.\nHow?,So.\n")
    assert notices_of(tmp_path / "b.csv") == []


@pytest.mark.parametrize("column", ["image", "images", "video"])
def test_column_that_is_empty_in_every_row_is_named(column: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,question,{column},answer\n7,Why?,,So.\n8,How?,,So.\n")
    (notice,) = notices_of(tmp_path / "a.csv")
    what = "film" if column == "video" else "picture"
    assert notice.where == f"{tmp_path / 'a.csv'}:2 record 0 (id '7') {column}"
    assert notice.found == f"no {what} in any row: the column {column!r} is empty in all 2"
    assert "remove the column" in notice.fix


@pytest.mark.parametrize("empty", [None, {"bytes": None, "path": None}, []])
def test_column_of_a_parquet_file_is_empty_too(empty: object, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = (
        arrow.list_(arrow.string()) if empty == [] else arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
    )
    table = arrow.table({"question": ["Why?"] * 3, "answer": ["So."] * 3, "image": arrow.array([empty] * 3, kind)})
    parquet.write_table(table, tmp_path / "a.parquet")
    (notice,) = notices_of(tmp_path / "a.parquet")
    assert notice.found == "no picture in any row: the column 'image' is empty in all 3"


def test_picture_that_is_no_sound_value_is_no_empty_cell(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    cells = [{"bytes": b"", "path": ""}, save_picture(tmp_path / "a.png")]
    table = pandas.DataFrame([{"question": "Why?", "answer": "So.", "image": cell} for cell in cells])
    checked = check_records(hold_records(table, name="data"))
    assert [problem.code for _, problem in checked.problems] == ["D130"]
    assert [each.code for each in checked.notices] == ["D321"]


def problem_of(load: Callable[[], object]) -> Problem:
    with pytest.raises(DataError) as caught:
        load()
    (problem,) = caught.value.problems
    return problem


MISSING = [None, float("nan"), "NA", "NaT"]
"""What stands for an empty cell in a pandas table; the last two are pandas' own."""


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize(("column", "code"), [("question", "D111"), ("answer", "D116")])
def test_empty_cell_is_named_by_its_column(column: str, code: str, missing: object, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    cell = getattr(pandas, missing) if isinstance(missing, str) else missing
    table = pandas.DataFrame([{"id": "7", "system": "Be kind.", "question": "Why?", "answer": "So.", column: cell}])
    table = table.astype(object)
    table[column] = [cell]
    table.to_csv(tmp_path / "a.csv", index=False)
    for load in (lambda: load_records(tmp_path / "a.csv"), lambda: load_held(table, name="data")):
        problem = problem_of(load)
        assert problem.code == code
        assert problem.where.endswith(f"record 0 (id '7') {column}")
        assert problem.found == f"an empty cell in the column {column!r}"
        assert problem.fix == "fill the cell, or leave the row out"


def test_row_of_empty_cells_names_them_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("instruction,input,output\nWhy?,,So.\n,,\n")
    problem = problem_of(lambda: load_records(tmp_path / "a.csv"))
    assert problem.where == f"{tmp_path / 'a.csv'}:3 record 1 instruction"
    assert problem.found == "empty cells in the columns 'instruction' and 'input'"


def test_empty_column_of_messages_is_named(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"image": "a.png", "messages": conversation("Why?", "So.")}, {"image": "a.png", "messages": None}]
    save_picture(tmp_path / "a.png")
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    problem = problem_of(lambda: load_records(tmp_path / "a.parquet"))
    assert (problem.code, problem.found) == ("D111", "an empty cell in the column 'messages'")


def test_nan_of_a_column_of_floats_is_an_empty_cell(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"question": ["Why?", "How?"], "answer": [1.5, float("nan")]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert problem_of(lambda: load_records(tmp_path / "a.parquet")).found == "an empty cell in the column 'answer'"


def test_question_whose_answer_is_empty_can_be_answered(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nWhy?,\n")
    (record,) = load_records(tmp_path / "a.csv", for_training=False)
    assert [turn.text for turn in record.turns] == ["Why?"]


def test_empty_answer_behind_earlier_turns_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('query,history,response\nWhy?,"[[""Who?"", ""Me.""]]",\n')
    problem = problem_of(lambda: load_records(tmp_path / "a.csv"))
    assert (problem.code, problem.found) == ("D116", "an empty cell in the column 'response'")


def test_table_of_conversations_and_one_in_memory_are_tables_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    picture = save_picture(tmp_path / "a.png")
    rows = [{"image": picture, "messages": conversation("Why?", "So.")}, {"messages": conversation("How?", "So.")}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (notice,) = notices_of(tmp_path / "a.parquet")
    checked = check_records(hold_records(pandas.DataFrame(rows), name="data"))
    assert [each.found for each in checked.notices] == [notice.found]


def test_record_of_json_may_be_without_a_picture(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    talk = conversation("Why?", "So.")
    file = write_data(
        tmp_path / "a.json", [{"image": "a.png", "conversations": talk}, {"image": "", "conversations": talk}]
    )
    assert notices_of(Path(file)) == []
