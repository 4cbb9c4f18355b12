"""Records are read when they are asked for, by whoever has the sequence, and only while the file is what it was."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.reading import open_records
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from tests.tiny import conversation, save_picture

RECORDS = [{"id": str(i), "conversations": conversation(f"Question {i}?", f"Answer {i}.")} for i in range(5)]


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n\n" for record in records))
    return path


def write_list(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records, indent=1))
    return path


def write_parquet(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `data`")
    table = pytest.importorskip("pyarrow").Table.from_pylist(list(records))
    parquet.write_table(table, path, row_group_size=2)
    return path


def write_arrow(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra `data`")
    table = arrow.Table.from_pylist(list(records))
    with arrow.OSFile(str(path), "wb") as sink, arrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


WRITERS = [write_lines, write_list, write_parquet, write_arrow]


@pytest.mark.parametrize("write", WRITERS)
def test_any_order_and_any_copy_give_the_same_records(write: Any, tmp_path: Path) -> None:
    records = load_records(write(tmp_path / "train", RECORDS))
    expected = list(records)
    assert [record.id for record in expected] == [str(i) for i in range(5)]
    copy = pickle.loads(pickle.dumps(records))  # noqa: S301  our own bytes
    for index in (3, 0, 4, 1, 2):
        assert records[index] == copy[index] == expected[index]


@pytest.mark.parametrize("write", [write_lines, write_parquet, write_arrow])
def test_d204_a_copy_opened_after_a_change(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "train", RECORDS)
    data = pickle.dumps(open_records(path))
    write(path, RECORDS[1:])
    with pytest.raises(DataError, match="D204"):
        pickle.loads(data)[0]  # noqa: S301  our own bytes


def test_d204_a_line_read_after_a_change(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", RECORDS)
    records = open_records(path)
    assert records[4].line == 9
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"train.jsonl: \[D204\]"):
        records[4]


def test_a_file_replaced_by_another_is_read_as_it_was(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", RECORDS)
    records = open_records(path)
    os.replace(write_lines(tmp_path / "new.jsonl", RECORDS[:1]), path)
    assert records[4].where().endswith("train.jsonl:9 record 4 (id '4')")


@pytest.mark.parametrize("block", [1, 7, 64, 2**24])
def test_lines_are_found_wherever_blocks_end(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpmv.data.records.formats.containers.json_lines._BLOCK", block)
    lines = ['{"id": "a"}', "", " \t ", '  {"id": "b"}\r', '{"id": "c"}', "\v\f", '{"id": "d"}']
    for end in ("", "\n", "\n  ", "\n\n"):
        path = tmp_path / "train.jsonl"
        path.write_bytes(("\n".join(lines) + end).encode())
        found = [(record.index, record.line, record.value) for record in open_records(path)]
        assert found == [(0, 1, {"id": "a"}), (1, 4, {"id": "b"}), (2, 5, {"id": "c"}), (3, 7, {"id": "d"})]


def test_sizes_stay_with_their_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpmv.data.sources.loading._AT_A_TIME", 2)
    monkeypatch.setattr("minicpmv.data.media.image_sizes._REMEMBERED", 1)
    for number in range(3):
        save_picture(tmp_path / f"{number}.png", 20 + number, 30)
    images: list[list[int]] = [[0], [], [1, 0], [2, 2], [], [0, 1, 2]]
    records = [
        {"image": [f"{number}.png" for number in of_record], "conversations": conversation("Why?", "So.")}
        for of_record in images
    ]
    found = [record.image_sizes for record in load_records(write_lines(tmp_path / "train.jsonl", records))]
    assert found == [tuple((20 + number, 30) for number in of_record) for of_record in images]


def test_d141_counts_uses_however_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpmv.data.sources.loading._AT_A_TIME", 1)
    records = [{"image": "no.png", "conversations": conversation("Why?", "So.")}] * 3
    with pytest.raises(DataError) as caught:
        load_records(write_lines(tmp_path / "train.jsonl", records))
    (problem,) = caught.value.problems
    assert problem.found.endswith("no.png'; 2 more uses of this file")
    assert "record 0" in problem.where
