"""The prepared Python does as the real one does, for whoever starts something with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import started
from tests.run import prepared, prepared_client
from tests.run.prepared import prepared_python


def run(*words: str, typed: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [prepared_python(), *words]
    return subprocess.run(command, input=typed, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_words_folder_variables_and_streams_are_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLD", "ä")
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['TOLD'], input()); print('!', file=sys.stderr)"
    done = run("-u", "-c", code, "a b", typed="typed\n", folder=tmp_path)
    assert (done.stdout, done.stderr) == (f"['-c', 'a b'] {tmp_path} ä typed\n", "!\n")
    assert run("-", "x", typed="import sys; print(sys.argv)").stdout == "['-', 'x']\n"


def test_modules_are_there_and_left_alone_by_the_garbage_collection() -> None:
    done = run("-c", "import gc, sys; print('minicpmv.training.run' in sys.modules, gc.get_freeze_count() > 100_000)")
    assert done.stdout == "True True\n"


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [
        ("", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('why')", 1, "why\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'late')", 0, ""),
    ],
)
def test_end_is_the_caller_s(code: str, ends: int, says: str) -> None:
    done = run("-c", code)
    assert done.returncode == ends
    assert done.stderr.endswith(says)
    assert done.stdout == ("late\n" if "late" in code else "")


_WAIT = """
import time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(9)
"""


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, 9), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signals_reach_it(number: int, ends: int) -> None:
    """Also SIGKILL, which ends the caller's process and with it the one that works."""
    with started([prepared_python(), "-c", _WAIT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "", "what works held it open, and is gone"
        assert process.wait(60) == ends


def test_what_runs_ends_with_the_server_and_another_takes_over(capsys: pytest.CaptureFixture[str]) -> None:
    first = prepared_python()
    server, _ = prepared._servers[-1]
    with started([first, "-c", _WAIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        server.terminate()
        _, told = process.communicate(timeout=60)
        assert "the server of prepared processes is gone" in told
    server.join(60)
    assert run("-c", "print(5)").stdout == "5\n"
    assert prepared_python() != first
    assert "ended with -9; another is started" in capsys.readouterr().err


def test_ctrl_c_of_the_tests_is_no_matter_of_the_server() -> None:
    prepared_python()
    server, _ = prepared._servers[-1]
    assert server.pid is not None
    os.kill(server.pid, signal.SIGINT)
    assert os.getpgid(server.pid) == server.pid, "a terminal signals the tests' group"
    assert run("-c", "print(5)").stdout == "5\n"
    assert server.is_alive()


def test_new_files_have_the_permissions_that_the_caller_gives() -> None:
    before = os.umask(0o027)
    try:
        assert run("-c", "import os; print(oct(os.umask(0)))").stdout == "0o27\n"
    finally:
        os.umask(before)


def test_temporary_files_lie_where_the_caller_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert run("-c", "import tempfile; print(tempfile.gettempdir())").stdout == f"{tmp_path}\n"


def test_what_it_starts_with_its_own_interpreter_is_prepared_too() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.modules))'])"
    assert int(run("-c", code).stdout) > 3000


def test_other_words_are_for_the_real_interpreter() -> None:
    done = run("-I", "-c", "import sys; print(sys.flags.isolated, 'torch' in sys.modules)")
    assert done.stdout == "1 False\n"


def test_module_that_was_imported_before_runs_without_a_warning() -> None:
    done = run("-m", "minicpmv.training.launching.launcher", "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_real_interpreter_takes_over_where_the_server_is_gone(tmp_path: Path) -> None:
    client = [sys.executable, "-I", "-S", prepared_client.__file__, str(tmp_path / "gone")]
    done = subprocess.run([*client, "-c", "print(5)"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
