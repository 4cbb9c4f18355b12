from __future__ import annotations

import json
import logging
import multiprocessing
from pathlib import Path

import pytest

from minicpmv.data.sources.skipping import SkipLog
from minicpmv.errors import DataError, Problem, UsageError


def problem(name: str, code: str = "D141") -> Problem:
    return Problem(code, f"{name} image", "no file 'a.png'", "an image file", "correct the path")


def log_in(folder: Path, *, max_share: float = 0.5, num_records: int = 10) -> SkipLog:
    return SkipLog(path=folder / "skipped.jsonl", num_records=num_records, max_share=max_share)


def names_in(folder: Path) -> list[str]:
    lines = (folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["record"] for line in lines]


def test_a_record_is_written_once_with_all_its_problems(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = log_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        log.add({"a": [problem("a"), problem("a", "D126")]})
        log.add({"a": [problem("a")], "b": [problem("b")]})
    assert names_in(tmp_path) == ["a", "a", "b"]
    assert [message.split(":")[1] for message in caplog.messages] == [" a image", " a image", " b image"]
    line = json.loads((tmp_path / "skipped.jsonl").read_text().splitlines()[0])
    assert line == {
        "record": "a",
        "code": "D141",
        "where": "a image",
        "found": "no file 'a.png'",
        "expected": "an image file",
        "fix": "correct the path",
    }


def test_d205_counts_records_not_problems_and_not_the_long_ones(tmp_path: Path) -> None:
    log = log_in(tmp_path, max_share=0.2)
    log.add({"a": [problem("a"), problem("a", "D126")], "long": [problem("long", "D201")]})
    log.add({"b": [problem("b")]})
    with pytest.raises(DataError, match=r"\[D205\] found 3 bad records of 10, expected at most 20.00%"):
        log.add({"c": [problem("c")]})
    assert names_in(tmp_path) == ["a", "a", "long", "b", "c"]


def test_checking_writes_nothing(tmp_path: Path) -> None:
    log = log_in(tmp_path, max_share=0.1)
    log.check({"a": [problem("a")]})
    with pytest.raises(DataError, match="D205"):
        log.check({"a": [problem("a")], "b": [problem("b")]})
    assert not log.path.exists()


def test_a_new_run_forgets_and_a_resumed_one_remembers(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.add({"a": [problem("a")]})
    log.begin({"b": [problem("b")]}, afresh=False)
    assert names_in(tmp_path) == ["a", "b"]
    log.begin({"b": [problem("b")]}, afresh=True)
    assert names_in(tmp_path) == ["b"]
    log.begin({}, afresh=True)
    assert not log.path.exists()


def _add_many(log: SkipLog, names: list[str]) -> None:
    for name in names:
        log.add({name: [problem(name)]})


def test_processes_write_whole_lines_and_each_record_once(tmp_path: Path) -> None:
    log, names = log_in(tmp_path, max_share=1.0, num_records=50), [f"r{i}" for i in range(50)]
    processes = [
        multiprocessing.get_context("fork").Process(target=_add_many, args=(log, names[::step])) for step in (1, -1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(names_in(tmp_path)) == sorted(names)


def test_a_record_is_written_through_no_link(tmp_path: Path) -> None:
    (foreign := tmp_path / "foreign").write_text("", encoding="utf-8")
    (tmp_path / "skipped.jsonl").symlink_to(foreign)
    with pytest.raises(UsageError, match=r"skipped.jsonl': found a link"):
        log_in(tmp_path).add({"a": [problem("a")]})
    assert foreign.read_text(encoding="utf-8") == ""
