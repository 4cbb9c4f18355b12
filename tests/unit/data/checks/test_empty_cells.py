from __future__ import annotations

import csv
from pathlib import Path

import pytest

from minicpmv.data.records.reading import open_records
from minicpmv.data.sources.in_memory import hold_records
from minicpmv.data.sources.loading import check_records
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import Problem
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


@pytest.mark.parametrize("images", [["a.png", "a.png"], ["", ""]])
def test_table_whose_rows_are_alike_gets_no_notice(images: list[str], tmp_path: Path) -> None:
    assert notices_of(write_csv(tmp_path / "a.csv", images)) == []


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
