"""A directory belongs to one run; what a dead one left is recognised, and a living one is never overrun."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.report.holder import LOCK
from minicpmv.training.checkpoints import lock
from minicpmv.training.checkpoints.lock import hold_directory, look_for_holder
from tests.processes import started

_HOLD = """
import sys, time
from minicpmv.training.checkpoints import lock
lock._BEAT = 0.1
{before}
with lock.hold_directory(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def _holder(folder: Path, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a directory."""
    code = _HOLD.format(before=before)
    with started([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def _leave(folder: Path, host: str) -> None:
    (folder / LOCK).write_text(json.dumps({"host": host, "process": 7, "started": "2026-01-01T00:00:00+00:00"}))


def test_lock_that_leads_elsewhere_is_named_and_what_it_leads_to_is_kept(tmp_path: Path) -> None:
    (foreign := tmp_path / "foreign").write_text("kept", encoding="utf-8")
    (output := tmp_path / "output").mkdir()
    (output / LOCK).symlink_to(foreign)
    for attempt in (lambda: hold_directory(str(output)).__enter__(), lambda: look_for_holder(str(output))):
        with pytest.raises(UsageError, match=r"(?s)\.lock': found a link, expected nothing, or a file\n  fix: "):
            attempt()
    assert foreign.read_text(encoding="utf-8") == "kept"


def test_second_run_is_told_who_is_there(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        for attempt in (lambda: hold_directory(str(tmp_path)).__enter__(), lambda: look_for_holder(str(tmp_path))):
            with pytest.raises(
                UsageError, match=rf"(?s)found a run that began at 20.*\(process {process.pid} on .*fix: "
            ):
                attempt()
        assert (tmp_path / LOCK).is_file(), "the refused one removed what is not its own"


def test_released_directory_is_free_and_as_it_was(tmp_path: Path) -> None:
    with hold_directory(str(tmp_path / "new" / "run")):
        (tmp_path / "kept").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with hold_directory(str(tmp_path / "run")):
        (tmp_path / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_killed_run_leaves_a_lock_that_the_next_one_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK).is_file()
        look_for_holder(str(tmp_path))
        with hold_directory(str(tmp_path)):
            assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert f"process {process.pid} on" in capsys.readouterr().out


def test_forked_worker_that_outlives_its_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    fork = (
        "import os\nbefore = lock._take\ndef take(path):\n    found = before(path)\n    os.fork() or time.sleep(60)\n"
    )
    with _holder(tmp_path, fork + "    return found\nlock._take = take") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold_directory(str(tmp_path)):
            pass


@pytest.mark.parametrize("content", ["", "{", '{"host": 1}', "[]", "\udcff"])
def test_half_a_lock_file_stops_nobody(content: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(content.encode(errors="surrogateescape"))
    with hold_directory(str(tmp_path)):
        pass


def test_run_on_another_machine_is_gone_if_its_file_does_not_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.5)
    monkeypatch.setattr(lock, "_LOOK", 0.1)
    _leave(tmp_path, "elsewhere")
    with hold_directory(str(tmp_path)):
        pass
    assert "process 7 on elsewhere) died" in capsys.readouterr().out


@pytest.mark.parametrize("are_locks_known", [True, False])
def test_run_on_another_machine_lives_as_long_as_its_file_moves(
    are_locks_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Disks that keep locks to each machine, or know none.
    def lockf(descriptor: int, kind: int) -> None:
        if not are_locks_known:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    monkeypatch.setattr(lock, "_LOOK", 0.05)
    with _holder(tmp_path, "lock.socket.gethostname = lambda: 'elsewhere'"):
        with pytest.raises(UsageError, match=r"(?s)on elsewhere\).*if elsewhere is gone for good, delete .*/\.lock"):
            hold_directory(str(tmp_path)).__enter__()
        assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"


def test_directory_without_locks_is_one_runs_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    monkeypatch.setattr(lock, "_BEAT", 0.05)
    monkeypatch.setattr(lock, "_LOOK", 0.05)
    with hold_directory(str(tmp_path)), pytest.raises(UsageError, match="found a run that began"):
        hold_directory(str(tmp_path)).__enter__()


def test_file_that_another_run_put_there_meanwhile_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, its holder may end, and a third run begin."""
    (tmp_path / LOCK).touch()
    before, swapped = lock.try_lock, list[bool]()

    def swap(descriptor: int, kind: int) -> bool | None:
        if not swapped:
            (tmp_path / LOCK).unlink()
            (tmp_path / LOCK).touch()
            swapped.append(True)
        return before(descriptor, kind)

    monkeypatch.setattr(lock, "try_lock", swap)
    with hold_directory(str(tmp_path)):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_place_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(UsageError, match=r"cannot be written \((Not a directory|File exists)\)"):
            hold_directory(str(tmp_path / place)).__enter__()


def test_dry_run_that_looks_for_an_instant_refuses_nobody(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    code = (
        "import fcntl, sys, time\nfile = open(sys.argv[1])\nfcntl.lockf(file, fcntl.LOCK_SH)\n"
        "print('looking', flush=True)\ntime.sleep(0.2)"
    )
    with started([sys.executable, "-c", code, tmp_path / LOCK], stdout=subprocess.PIPE) as looking:
        assert looking.stdout is not None
        looking.stdout.readline()
        begin = time.monotonic()
        with hold_directory(str(tmp_path)):
            assert time.monotonic() > begin
