"""What a data file can be: the same records come out of every container, and everything else is named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicpmv.data.records.formats.containers import gzip_files
from minicpmv.data.records.reading import open_records, read_records
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.source_digests import open_source
from minicpmv.data.sources.survey import Survey
from minicpmv.data.sources.survey_report import verdict
from minicpmv.errors import DataError, Problem
from tests.tiny import conversation, save_picture, write_data
from tests.unit.data.broken_inputs import STRANGE_FILES

RECORDS: list[dict[str, Any]] = [
    {"id": "007", "image": "a.png", "conversations": conversation("<image>\nWhy, or how?", 'He said "so".')},
    {"id": "1e5", "conversations": conversation("Two\nlines;\ttabs", "é, ü and 猫")},
    {"image": ["a.png", "a.png"], "conversations": conversation("Both?", "Yes.")},
]
_ALIKE = settings(
    derandomize=True, deadline=None, database=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)


def to_csv(records: list[dict[str, Any]], *, delimiter: str = ",", line_end: str = "\n") -> str:
    """Write records as tools do: lists as JSON, what a record lacks as an empty cell."""
    names = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO(newline="")
    rows = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    rows.writerow(names)
    for record in records:
        cells = [record.get(name, "") for name in names]
        rows.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    return text.getvalue()


def values(path: Path) -> list[object]:
    return [record.value for record in read_records(path)]


def problem_of(path: Path, data: bytes | str = b"") -> Problem:
    if data:
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(DataError) as caught:
        read_records(path)
    return caught.value.problems[0]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_holds_what_json_holds(tmp_path: Path, delimiter: str, line_end: str, mark: str) -> None:
    save_picture(tmp_path / "a.png")
    write_data(tmp_path / "train.json", RECORDS)
    (tmp_path / "t.csv").write_bytes((mark + to_csv(RECORDS, delimiter=delimiter, line_end=line_end)).encode())
    assert values(tmp_path / "t.csv") == values(tmp_path / "train.json")
    assert [record.turns for record in load_records(tmp_path / "t.csv")] == [
        record.turns for record in load_records(tmp_path / "train.json")
    ]


@_ALIKE
@given(st.lists(st.tuples(st.text(), st.text(), st.text(min_size=1)), min_size=1, max_size=5))
def test_any_text_comes_through_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]) -> None:
    """Except NUL, which csv does not write, and lone halves of pairs, which are no UTF-8."""
    cells = [[text.encode("utf-8", "replace").decode().replace("\0", "") for text in row] for row in rows]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["id", "one", "two"], *cells])
    file = tmp_path_factory.mktemp("csv") / "t.csv"
    file.write_bytes(text.getvalue().encode())
    expected = [dict(zip(("id", "one", "two"), row, strict=True)) for row in cells]
    found = [record.value for record in open_records(file)]
    assert found == [{name: cell for name, cell in row.items() if cell} for row in expected]


def test_rows_of_csv_know_their_lines_and_a_bad_one_hides_no_other(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('id,question\n\na,"Why?\nHow?"\n\nb\nc,"Who?"\n')
    records = read_records(file)
    assert [(record.index, record.line) for record in records] == [(0, 3), (1, 6), (2, 7)]
    assert [[fault.code for fault in record.faults] for record in records] == [[], ["D173"], []]
    assert records[1].faults[0].where == f"{file}:6 record 1"


def test_a_cell_may_be_larger_than_the_library_allows_by_itself(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"id,text\na,{'x' * 300_000}\n")
    (value,) = values(tmp_path / "t.csv")
    assert isinstance(value, dict)
    assert len(value["text"]) == 300_000


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.csv"])
def test_gzip_holds_what_it_packs(tmp_path: Path, name: str) -> None:
    save_picture(tmp_path / "a.png")
    texts = {
        "train.jsonl": "\n".join(map(json.dumps, RECORDS)),
        "train.json": json.dumps(RECORDS),
        "train.csv": to_csv(RECORDS),
    }
    (tmp_path / name).write_text(texts[name])
    packed = tmp_path / f"{name}.gz"
    half = len(texts[name]) // 2  # two members, as `cat a.gz b.gz` makes them
    packed.write_bytes(gzip.compress(texts[name][:half].encode()) + gzip.compress(texts[name][half:].encode()))
    assert values(packed) == values(tmp_path / name)
    assert [record.line for record in read_records(packed)] == [record.line for record in read_records(tmp_path / name)]
    _, content = open_source(str(packed))
    assert content.files == ((f"{name}.gz", packed.stat().st_size),)
    assert len(load_records(packed)) == 3


def test_a_worker_unpacks_again_and_refuses_a_file_that_changed(tmp_path: Path) -> None:
    packed = tmp_path / "train.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS)).encode()))
    records = open_records(packed)
    copy = pickle.dumps(records)
    assert [record.value for record in pickle.loads(copy)] == [record.value for record in records]  # noqa: S301
    packed.write_bytes(gzip.compress(b"{}"))
    assert [record.index for record in records] == [0, 1, 2], "what was unpacked stays"
    with pytest.raises(DataError, match="D204"):
        pickle.loads(copy)  # noqa: S301


def test_gzip_leaves_no_file_and_no_open_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    packed = tmp_path / "train.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(RECORDS[0]).encode()))
    before = len(os.listdir("/proc/self/fd"))
    assert len(read_records(packed)) == 1
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path / "temporary") == []


def test_a_gzip_bomb_stops_at_the_limit_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_files, "FREE_BYTES", 1000)
    data = gzip.compress(json.dumps([{**RECORDS[0], "id": number} for number in range(3000)]).encode())
    problem = problem_of(tmp_path / "train.json.gz", gzip.compress(bytes(10_000_000)))
    assert problem.code == "D172"
    assert "at most 200 times the size of the packed file" in problem.expected
    (tmp_path / "fine.json.gz").write_bytes(data)
    assert len(read_records(tmp_path / "fine.json.gz")) == 3000


def test_no_room_to_unpack_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    problem = problem_of(tmp_path / "train.json.gz", gzip.compress(b"[{}]"))
    assert (problem.code, "set TMPDIR" in problem.fix) == ("D172", True)


@pytest.mark.parametrize("name", STRANGE_FILES)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ""])
def test_no_strange_file_ends_in_a_message_about_json(tmp_path: Path, name: str, suffix: str) -> None:
    problem = problem_of(tmp_path / f"train{suffix}", STRANGE_FILES[name])
    assert problem.code == "D170"
    assert "{" not in problem.fix


def test_commands_of_fixes_work(tmp_path: Path) -> None:
    """Those that need nothing but what the package needs, on a file whose name needs quotes."""
    good = [RECORDS[1]]
    file = tmp_path / "my train.yaml"
    command = problem_of(file, "- id: 1e5\n  conversations: []\n").fix.partition(": ")[2]
    assert run(command, tmp_path) == ""
    assert json.loads((tmp_path / "my train.json").read_text()) == [{"id": "1e5", "conversations": []}]
    for text in (json.dumps({"train": good, "test": good}), str({"train": good, "test": good})):
        command = problem_of(tmp_path / "it.json", text).fix.partition(": ")[2]
        assert run(command, tmp_path) == ""
        assert values(tmp_path / "it_train.json") == good
    command = problem_of(tmp_path / "by_id.json", json.dumps({"a": good[0], "b": RECORDS[0]})).fix.partition(": ")[2]
    assert run(command, tmp_path) == ""
    assert values(tmp_path / "by_id_records.json") == [good[0], RECORDS[0]]
    command = problem_of(tmp_path / "my.zip", STRANGE_FILES["zip"]).fix.partition(": ")[2].partition(", then")[0]
    assert run(command, tmp_path) == ""
    assert len(read_records(tmp_path / "my" / "train.json")) == 2
    command = problem_of(tmp_path / "a b.tar", STRANGE_FILES["tar"]).fix.partition(": ")[2].partition(", then")[0]
    assert run(command, tmp_path) == ""
    assert (tmp_path / "a b" / "000000.json").is_file()


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, env={"PATH": path})
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("as_json5", [False, True])
def test_a_wrapped_list_is_read_where_it_stands(tmp_path: Path, as_json5: bool) -> None:
    wrapped = {"info": {"data": [1]}, "version": "1", "data": RECORDS, "tags": ["a"]}
    (tmp_path / "t.json").write_text(str(wrapped) if as_json5 else json.dumps(wrapped, indent=1))
    notices: list[Problem] = []
    records = list(open_records(tmp_path / "t.json", on_notice=notices.append))
    assert [record.value for record in records] == RECORDS
    assert [notice.code for notice in notices] == ["D330"]
    assert "'data' of an object next to 'info', 'version', 'tags'" in notices[0].found
    if not as_json5:
        lines = (tmp_path / "t.json").read_text().splitlines()
        assert [lines[(record.line or 0) - 1].strip() for record in records] == ["{"] * 3


def test_a_folder_is_read_without_what_describes_it(tmp_path: Path) -> None:
    """LLaMA-Factory's data folder: its list of data sets, and files that are read or may be meant."""
    write_data(tmp_path / "demo.json", RECORDS[1:2])
    (tmp_path / "more.csv").write_text(to_csv(RECORDS[1:2]))
    (tmp_path / "README.md").write_text("Data.")
    (tmp_path / "old.zip").write_bytes(STRANGE_FILES["zip"])
    demo = {"file_name": "demo.json", "formatting": "sharegpt", "columns": {"messages": "talk"}}
    registry = {"demo": demo, "hub": {"hf_hub_url": "a/b"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry))
    survey = Survey([str(tmp_path)])
    survey.read_texts()
    assert len(survey.records) == 2
    archive, info = [finding.problem for finding in survey.findings]
    assert (archive.code, info.code) == ("D332", "D332")
    assert archive.found == "1 file of other kinds: old.zip"
    assert info.found.endswith("as LLaMA-Factory's, which says how to read demo (columns, formatting)")
    assert problem_of(tmp_path / "dataset_info.json").found.startswith(
        "a list of data sets, as LLaMA-Factory's: 'demo'"
    )


def test_the_verdict_tells_problems_of_records_from_those_of_files(tmp_path: Path) -> None:
    sound, strange = write_data(tmp_path / "a.json", RECORDS[1:2]), tmp_path / "b.json"
    faulty = write_data(tmp_path / "c.json", [{"conversations": []}])
    strange.write_bytes(STRANGE_FILES["zip"])
    for paths, words in (
        ([str(strange)], "1 problem of whole files, and no record that could be read; no notice."),
        ([sound, str(strange)], "1 problem of whole files, and 1 record that could be read; no notice."),
        ([faulty, str(strange)], "2 problems: 1 in 1 of 1 record, 1 of whole files; no notice."),
        ([faulty, sound], "1 problem in 1 of 2 records; no notice."),
    ):
        survey = Survey(paths)
        survey.read_texts()
        assert verdict(survey.findings, survey.statistics()).startswith(words)


def test_paths_that_are_no_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(Path("a.json"), RECORDS)
    write_data(Path("b.json"), RECORDS)
    Path("link.json").symlink_to("nowhere.json")
    Path("loop.json").symlink_to("loop.json")
    os.mkfifo("pipe.json")
    for path, found, fix in (
        ("a.json,b.json", "no such file", "write spaces between files, not commas: a.json b.json"),
        ("?.json", "no such file", "leave the quotes away, so that the shell finds the files: a.json b.json"),
        ("A.json", "no such file", "did you mean 'a.json'?"),
        ("https://example.com/a.json", "no folder", "download the file, and give its path"),
        ("file://a.json", "no folder", "write the path alone: a.json"),
        ("lmms-lab/LLaVA", "no folder lmms-lab", "hf download --repo-type dataset lmms-lab/LLaVA"),
        ("link.json", "a link to a file that is not there: 'link.json' -> 'nowhere.json'", "put the file there"),
        ("loop.json", "a link to a file that is not there: 'loop.json' -> 'loop.json'", "put the file there"),
        ("pipe.json", "a named pipe: 'pipe.json'", "into a file"),
        ("/dev/zero", "a device: '/dev/zero'", "into a file"),
        ("a.json/b.json", "no folder a.json", "correct the path"),
        ("x" * 5000, "no such file", "correct the path"),
        ("a\0.json", "no such file", "did you mean 'a.json'?"),
    ):
        problem = problem_at(path)
        assert problem.code == "D101", path
        assert found in problem.found, path
        assert fix in problem.fix, path


def problem_at(path: str) -> Problem:
    with pytest.raises(DataError) as caught:
        open_records(path)
    return caught.value.problems[0]


_MAGICS = [data[:16] for data in STRANGE_FILES.values()] + [
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
    b"PAR1",
    b"ARROW1",
    b"\xff\xff\xff\xff",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"BM",
    b"RIFF\0\0\0\0WEBP",
    b"<?xml",
    b"<html>",
    b"id,question\n",
    b'{"data": [',
    b"\xef\xbb\xbf",
]
_NAMES = ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.jsonl.gz", "a.yaml", "a", "a.parquet", "a.csv.gz"]


@_ALIKE
@given(st.sampled_from(_MAGICS), st.binary(max_size=60), st.sampled_from(_NAMES), st.booleans())
def test_any_bytes_behind_any_mark_are_records_or_named(
    tmp_path_factory: pytest.TempPathFactory, mark: bytes, rest: bytes, name: str, is_packed: bool
) -> None:
    file = tmp_path_factory.mktemp("any") / name
    file.write_bytes(gzip.compress(mark + rest) if is_packed else mark + rest)
    survey = Survey([str(file)])
    survey.read_texts()
    survey.read_images()
    survey.read_films()
    assert survey.findings
    if any(finding.problem.severity == "problem" for finding in survey.findings):
        with pytest.raises(DataError):
            load_records(file)
