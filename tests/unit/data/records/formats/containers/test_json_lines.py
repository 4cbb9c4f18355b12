from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpmv.data.records.reading import read_records
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from tests.tiny import conversation

GOOD = json.dumps({"id": "a", "conversations": conversation("Why?", "So.")})


def write(folder: Path, *lines: str | bytes, name: str = "train.jsonl") -> Path:
    file = folder / name
    file.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return file


def test_records_know_their_line(tmp_path: Path) -> None:
    file = write(tmp_path, '{"id": "a"}', "", "  ", '{"id": "b"}\r', '{"id": "c"}')
    assert [(record.index, record.line) for record in read_records(file)] == [(0, 1), (1, 4), (2, 5)]
    assert read_records(file)[1].where("image") == f"{file}:4 record 1 (id 'b') image"


def test_every_broken_line_is_reported_beside_the_faults_of_whole_lines(tmp_path: Path) -> None:
    empty_answer = json.dumps({"id": "e", "conversations": conversation("Why?", "")})
    lines = [
        "{'id': 1}",
        GOOD,
        '{"id" 2}',
        empty_answer,
        GOOD.encode()[:-5],
        b'{"id": "\xe9"}',
        GOOD + GOOD,
        '{"id": "b',
    ]
    file = write(tmp_path, *lines)
    with pytest.raises(DataError) as caught:
        load_records(file)
    found = [(problem.code, problem.where.removeprefix(str(file))) for problem in caught.value.problems]
    assert found == [
        ("D102", ":1:2"),
        ("D102", ":3:7"),
        ("D126", ":4 record 3 (id 'e') conversations[1].content"),
        ("D103", ":5"),
        ("D104", ":6"),
        ("D102", f":7:{len(GOOD) + 1}"),
        ("D103", ":8"),
    ]


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train.txt", "train"])
def test_two_lines_of_objects_are_json_lines_whatever_the_name(tmp_path: Path, name: str) -> None:
    assert len(read_records(write(tmp_path, '{"id": 1}', '{"id": 2}', name=name))) == 2


def test_a_broken_first_line_leaves_json_lines_what_they_are(tmp_path: Path) -> None:
    first, second = read_records(write(tmp_path, '{"id" 1}', '{"id": 2}', name="train.json"))
    assert [fault.code for fault in first.faults] == ["D102"]
    assert second.value == {"id": 2}


def test_one_object_is_what_the_name_says(tmp_path: Path) -> None:
    assert len(read_records(write(tmp_path, '{"id": 1}'))) == 1
    with pytest.raises(DataError, match=r"\[D105\] found one object"):
        read_records(write(tmp_path, '{"id": 1}', name="train.json"))


def test_a_list_is_a_list_whatever_the_name(tmp_path: Path) -> None:
    assert len(read_records(write(tmp_path, "[", '{"id": 1},', '{"id": 2}]'))) == 2


def test_line_separators_of_unicode_end_no_line(tmp_path: Path) -> None:
    (record,) = read_records(write(tmp_path, '{"id": "a\u2028b\u0085"}'))
    assert record.value == {"id": "a\u2028b\u0085"}


def test_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (record,) = read_records(write(tmp_path, b'\xef\xbb\xbf{"id": 1}'))
    assert record.value == {"id": 1}


def test_d103_no_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[D103\] found an empty file, expected one record on each line"):
        read_records(write(tmp_path, "", "  ", ""))


def test_d107_repeated_key_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[D107\] found the key 'id' more than once"):
        load_records(write(tmp_path, GOOD.replace('"id"', '"id": "b", "id"')))


def test_bottomless_nesting_is_a_fault_of_its_line(tmp_path: Path) -> None:
    first, second = read_records(write(tmp_path, '{"a":' + "[" * 200_000, '{"id": 2}'))
    assert [fault.code for fault in first.faults] in (["D102"], ["D103"])
    assert not second.faults
