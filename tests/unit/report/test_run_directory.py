from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.report.run_directory import read_run
from tests.unit.report.runs import LOG, write_lines, write_run


def write_checkpoint(run: Path, step: int) -> None:
    (run / f"checkpoint-{step}").mkdir()
    state = {"max_steps": 9, "log_history": [{"step": number, "loss": 1.0} for number in range(1, step + 1)]}
    (run / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))


def test_a_finished_run_has_the_log_of_run_json(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert run.log == LOG
    assert (run.name, run.last_step, run.max_steps) == ("run", 3, 6)
    assert run.last("eval_loss") == 1.5
    assert run.faults == ()


def test_a_run_without_a_log_has_that_of_its_newest_checkpoint(tmp_path: Path) -> None:
    """By number: 10 comes after 9."""
    write_run(tmp_path, status="running", log=None)
    write_checkpoint(tmp_path, 9)
    write_checkpoint(tmp_path, 10)
    assert read_run(tmp_path).last_step == 10


def test_a_killed_run_has_what_it_logged_after_its_checkpoint(tmp_path: Path) -> None:
    write_run(tmp_path, status="running", log=None)
    write_checkpoint(tmp_path, 4)
    write_lines(tmp_path / "log.jsonl", [{"step": step, "loss": 1.0} for step in range(1, 7)])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    run = read_run(tmp_path)
    assert run.last_step == 6
    assert [fault.split(" that ")[0] for fault in run.faults] == ["1 line of log.jsonl"]


def test_what_is_damaged_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "samples.jsonl").write_bytes(b'{"step": 0, "answer": "\xff\xfe"}\n[1]\n{"step": "x"}\n')
    (tmp_path / "verification.json").write_text("{")
    run = read_run(tmp_path)
    assert [sample["answer"] for sample in run.samples] == ["\ufffd\ufffd"]
    assert [fault.partition(" that ")[0] for fault in run.faults] == ["1 line of samples.jsonl", "verification.json"]
    assert len(run.log) == len(LOG)


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_no_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"found neither run\.json nor a checkpoint, expected the --output_dir"):
        read_run(tmp_path / name)
