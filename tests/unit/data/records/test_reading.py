from __future__ import annotations

import logging
from pathlib import Path

import pytest

from minicpmv.data.records.formats.containers import json_list
from minicpmv.data.records.reading import read_records
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem
from minicpmv.processing.text.turns import ImageRef
from tests.tiny import save_picture

EXAMPLES = Path(__file__).parent / "examples"


def problem_of(path: Path, content: str | bytes) -> Problem:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_records(path)
    (problem,) = caught.value.problems
    return problem


def test_records_know_their_line_and_position(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text('\n[ {"id": "a"},\n\n  {"id": "b",\n "x": 1}, {"id": 7}\n]\n')
    records = read_records(file)
    assert [(record.index, record.line) for record in records] == [(0, 2), (1, 4), (2, 5)]
    assert records[1].where("image") == f"{file}:4 record 1 (id 'b') image"
    assert records[2].where() == f"{file}:5 record 2 (id 7)"


def test_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert [record.value for record in read_records(tmp_path / "train.json")] == [1]


def test_first_seed_example_loads_with_one_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = save_picture(tmp_path / "path/to/image_0.jpg")
    with caplog.at_level(logging.WARNING):
        (record,) = load_records(EXAMPLES / "vision_language.json", image_root=tmp_path)
    (notice,) = caplog.messages
    assert notice.startswith(f"{EXAMPLES / 'vision_language.json'}:4:16: not strict JSON (Expecting value)")
    assert record.images == (picture,)
    assert record.image_sizes == ((50, 40),)
    assert [turn.role for turn in record.turns] == ["user", "assistant"] * 3
    assert record.turns[0].content == (ImageRef(0), "How many desserts are on the white plate?")
    assert record.turns[2].content == ("What type of desserts are they?",)


def test_second_seed_example_loads_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (record,) = load_records(EXAMPLES / "language_only.json")
    assert len(caplog.messages) == 1
    assert record.images == ()
    assert record.turns[3].content == ("应预约皮肤性病科进行就诊，相关病症可能为雀斑。",)


def test_strict_json_gives_no_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.json").write_text("[1]")
    read_records(tmp_path / "train.json")
    assert caplog.messages == []


@pytest.mark.parametrize(
    "text", ["[{a: 1}]", "[1, // note\n]", "[{'it': 'isn\\'t'}]", '["a\\\n b"]', "[+1, .5, 0x10]", "[1,]"]
)
def test_json5_is_accepted(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.json").write_text(text)
    assert read_records(tmp_path / "train.json")


def test_d101_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[D101\] found no such file in "):
        read_records(tmp_path / "train.json")
    with pytest.raises(DataError, match=r"\[D101\] found no folder "):
        read_records(tmp_path / "nowhere" / "train.json")
    with pytest.raises(DataError, match=r"\[D101\] found a folder without data files, "):
        read_records(tmp_path)


def test_d102_shows_line_column_and_text(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    problem = problem_of(file, '[\n {"id": 1},\n {"id" 2}\n]')
    assert (problem.code, problem.where) == ("D102", f"{file}:3:8")
    assert problem.found == """' {"id" 2}' (Expecting ':' delimiter)"""


def test_d102_forgotten_comma_is_not_tried_as_json5(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert problem_of(tmp_path / "train.json", '[{"id": 1}\n{"id": 2}]').where.endswith("train.json:2:1")
    assert caplog.messages == []


def test_d102_in_json5_counts_its_lines(tmp_path: Path) -> None:
    problem = problem_of(tmp_path / "train.json", "[\n {'id': 1},\n {'id' 2}\n]")
    assert (problem.code, problem.where) == ("D102", f"{tmp_path / 'train.json'}:3:8")


def test_d102_large_json5_is_to_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "MAX_JSON5_BYTES", 10)
    problem = problem_of(tmp_path / "train.json", "[{'id': 'a long one'}]")
    assert problem.code == "D102"
    assert "convert it once: python -c" in problem.fix


@pytest.mark.parametrize("text", ["[" * 100_000, "[{'a':" * 10_000])
def test_d102_bottomless_nesting(tmp_path: Path, text: str) -> None:
    assert problem_of(tmp_path / "train.json", text).code in {"D102", "D103"}


WHOLE = '[\n {"id": "a", "n": -1.5, "x": [true, null, false], "t": "it\'s \\u00e9\\n"},\n {"id": "b"}\n]'


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_d103_cut_off_anywhere(tmp_path: Path, length: int) -> None:
    assert problem_of(tmp_path / "train.json", WHOLE[:length]).code == "D103"


def test_d103_names_the_last_line_and_text(tmp_path: Path) -> None:
    problem = problem_of(tmp_path / "train.json", '[\n {"id": "a"},\n {"id": "b\n\n')
    assert problem.where == f"{tmp_path / 'train.json'}:3"
    assert problem.found.startswith("the end of the file inside ")
    assert problem_of(tmp_path / "train.json", "  ").found == "an empty file"


def test_d103_cut_off_json5(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "train.json", "[\n {'id': 'a',},\n {'id").code == "D103"


def test_d104_other_encoding(tmp_path: Path) -> None:
    problem = problem_of(tmp_path / "train.json", '[\n"é"]'.encode("latin-1"))
    assert (problem.code, problem.where) == ("D104", f"{tmp_path / 'train.json'}:2")
    assert problem.found == "byte 0xe9, which is not UTF-8"
    assert problem_of(tmp_path / "train.json", "[1]".encode("utf-16")).found == "UTF-16 text, which is not UTF-8"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"id": 1}', "one object"),
        ("{'id': 1}", "one object"),
        ('{\n"id": 1}\n{"id": 2,\n"x": 3}\n', "several objects"),
        ('"text"', "'text'"),
        ("null", "null"),
    ],
)
def test_d105_top_level(tmp_path: Path, text: str, found: str) -> None:
    problem = problem_of(tmp_path / "train.json", text)
    assert (problem.code, problem.found) == ("D105", found)


def test_d106_no_records(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "train.json", " [ ]").code == "D106"
