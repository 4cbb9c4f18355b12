"""Scratch folders go with their process, or with the next one that makes such a folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from minicpmv.files.scratch import scratch_folder
from tests.processes import started

_HOLD = """
import sys
from minicpmv.files.scratch import scratch_folder
with scratch_folder("thing") as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_folder_of_a_killed_process_goes_and_that_of_a_live_one_stays(temporary: Path) -> None:
    other = temporary / "minicpmv-other-1"
    other.mkdir()
    with started([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        theirs = Path(process.stdout.readline().strip())
        with scratch_folder("thing") as mine:
            assert set(temporary.iterdir()) == {other, theirs, mine}
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert set(temporary.iterdir()) == {other, theirs}
    with scratch_folder("thing") as mine:
        assert set(temporary.iterdir()) == {other, mine}
    assert set(temporary.iterdir()) == {other}


def test_what_is_no_folder_of_ours_stays(temporary: Path) -> None:
    kept = temporary / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (temporary / "minicpmv-thing-link").symlink_to(kept)
    (temporary / "minicpmv-thing-file").touch()
    with scratch_folder("thing"):
        pass
    assert (kept / "file").exists()
    assert {path.name for path in temporary.iterdir()} == {"kept", "minicpmv-thing-link", "minicpmv-thing-file"}
