"""A run that was killed is told from one that goes on, where that can be known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import minicpmv
from minicpmv.cli.main import main
from minicpmv.report import following
from minicpmv.report.holder import LOCK, find_life
from minicpmv.training.checkpoints.lock import hold_directory
from tests.processes import started
from tests.unit.report.runs import LOG, leave_lock, write_lines, write_run
from tests.unit.report.test_page import words_of

_HOLD = """
import sys, time
from minicpmv.training.checkpoints.lock import hold_directory
with hold_directory(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def _running(place: Path) -> Path:
    run = write_run(place, status="running", log=None)
    write_lines(run / "log.jsonl", LOG)
    return run


def test_killed_run_is_not_running_any_more(tmp_path: Path) -> None:
    run = _running(tmp_path / "run")
    with started([sys.executable, "-c", _HOLD, run], stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert minicpmv.Run(run).status == "running"
        process.kill()
        process.wait()
    assert minicpmv.Run(run).status == "killed"
    assert "killed after step 3; no checkpoint was saved" in words_of(minicpmv.Run(run).report().read_text())
    (run / "checkpoint-2").mkdir()
    assert "killed after step 3; can be resumed from checkpoint-2" in words_of(minicpmv.Run(run).report().read_text())


def test_run_that_ended_by_an_error_is_not_running_any_more(tmp_path: Path) -> None:
    run = _running(tmp_path / "run")
    with hold_directory(str(run)):
        assert minicpmv.Run(run).status == "running"
    assert minicpmv.Run(run).status == "ended"


def test_what_a_run_says_of_itself_stands(tmp_path: Path) -> None:
    leave_lock(write_run(tmp_path, status="stopped"))
    assert minicpmv.Run(tmp_path).status == "stopped"


def test_run_of_another_machine_cannot_be_known(tmp_path: Path) -> None:
    leave_lock(_running(tmp_path), host="another")
    assert minicpmv.Run(tmp_path).status == "running"
    assert "not finished: still running, or killed" in words_of(minicpmv.Run(tmp_path).report().read_text())


def test_lock_that_names_nobody_yet_or_is_no_file_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / LOCK).touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / LOCK).symlink_to(tmp_path / "new" / LOCK)
    assert [find_life(tmp_path / name) for name in ("new", "linked", "absent")] == ["unknown", "unknown", "left"]


def test_looking_does_not_release_the_lock_of_the_process_that_looks(tmp_path: Path) -> None:
    """POSIX drops a lock when its process closes any descriptor of the file."""
    with hold_directory(str(tmp_path)):
        assert find_life(tmp_path) == "held"
        take = "import fcntl, sys\nfcntl.lockf(open(sys.argv[1]), fcntl.LOCK_SH | fcntl.LOCK_NB)"
        with started([sys.executable, "-c", take, tmp_path / LOCK], stderr=-1, text=True) as other:
            assert "BlockingIOError" in other.communicate()[1]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("run.json log.jsonl", "killed after step 3; no checkpoint was saved, start it again"),
        (
            "run.json log.jsonl checkpoint-2",
            "killed after step 3; resume: the same command with --resume",
        ),
        ("", "killed before its first step; start it again"),
    ],
)
def test_following_ends_with_a_killed_run(
    names: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "_GLANCE", 0.05)
    monkeypatch.setattr(following, "_LINGER", 0.05)
    for name in names.split():
        if name.startswith("checkpoint"):
            (tmp_path / name).mkdir()
    if "run.json" in names:
        _running(tmp_path)
    leave_lock(tmp_path)
    assert main(["report", str(tmp_path), "--follow", "--port", "0"]) == 0
    assert f"{tmp_path}: {told}" in capsys.readouterr().out


def test_page_renews_itself_when_the_run_is_killed(tmp_path: Path) -> None:
    live = following.LivePage([str(_running(tmp_path))], before=None, after=None, num_examples=1)
    leave_lock(tmp_path, host="another")
    before = live.version()
    leave_lock(tmp_path)
    assert live.version() != before
