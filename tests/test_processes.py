"""What a test starts ends with it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.processes import descendants, started, wait_for

_SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
_LEAVE_A_CHILD = (
    f"import subprocess, sys; print(subprocess.Popen({_SLEEP!r}, start_new_session=True).pid, flush=True); {{then}}"
)


@pytest.mark.parametrize("then", ["sys.stdin.read()", "sys.exit()"], ids=["parent lives", "parent is gone"])
def test_descendants_end_with_a_block_that_fails(then: str) -> None:
    """They have a session of their own, as data workers and the processes of a launcher do."""
    words = [sys.executable, "-I", "-c", _LEAVE_A_CHILD.format(then=then)]
    running: list[psutil.Process] = []
    with suppress(ZeroDivisionError), started(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        running.append(psutil.Process(int(process.stdout.readline())))
        if then == "sys.exit()":
            process.wait(30)
        else:
            assert descendants(process) == running
        raise ZeroDivisionError
    assert process.returncode is not None
    (child,) = running
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_waiting_for_a_line_ends_with_the_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\nport 7\n", encoding="utf-8")
    with started([sys.executable, "-I", "-S", "-c", ""]) as process:
        assert wait_for(r"^port (\d)$", log, process)[1] == "7"
        with pytest.raises(AssertionError, match="port 7"):
            wait_for("^never", log, process, seconds=10_000)
