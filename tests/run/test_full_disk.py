"""A disk without room ends a run with one message, leaves the earlier checkpoint as it is, and nothing half-written."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv.files.atomic_files import STAGING
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.manifest import find_fault
from minicpmv.training.run import main
from minicpmv.training.start import dry_run
from tests.run import chaos, forked
from tests.run.training import environment, flags, make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def test_write_that_fails_half_way_keeps_the_last_checkpoint(data: str, tmp_path: Path) -> None:
    """No file can grow beyond a limit: that fails within the very writers that a full disk stops, without a mount.

    Here it is the optimizer's, behind the weights; `chaos` stops others.
    """
    output, log = tmp_path / "output", tmp_path / "log"
    arguments = chaos.arguments(data, output)
    assert forked.exit_code(forked.start([*arguments, "--max_steps", "1"], log=tmp_path / "first")) == 0
    assert forked.exit_code(forked.start(arguments, log=log, most_file_bytes=1_000_000)) == 2
    errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {output}: found ")
    assert "existing checkpoints are intact" in errors[0]
    assert "Traceback" not in log.read_text()
    assert [path.name for path in list_checkpoints(output)] == ["checkpoint-1"]
    assert find_fault(output / "checkpoint-1", check_content=True) is None
    assert not (output / STAGING).exists()


def _run_on_small_disk(folder: Path, size: str, commands: str) -> subprocess.CompletedProcess[str]:
    """Run shell commands where a folder is a disk of some size, in a mount namespace that goes with them."""
    mounted = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(folder))} && {commands}"
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.long
def test_small_disk_is_told_with_its_numbers_before_anything_is_written(data: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None or _run_on_small_disk(disk, "1m", "true").returncode:
        pytest.skip("no disk can be mounted here")
    arguments = flags(data, disk / "output", "--use_lora", "--lora_r", "4", "--save_steps", "1", "--packing", "false")
    command = shlex.join([sys.executable, "-m", forked.TRAINING, *arguments])
    tried = f"{command}; echo ended with $?; cd {disk}; find output -maxdepth 1"
    done = _run_on_small_disk(disk, "5m", tried)  # room for one checkpoint of 2.7 MB
    assert "ended with 2\n" in done.stdout
    assert f"error: {disk}/output: found too little room, " in done.stderr
    assert "bytes free there, expected 2," in done.stderr
    assert sorted(done.stdout.rpartition("ended with 2\n")[2].split()) == [
        "output",
        "output/checkpoint-1",
        "output/log.jsonl",
        "output/run.json",
        "output/run.yaml",
    ]
    assert "Traceback" not in done.stderr


def test_disk_that_cannot_take_the_result_is_said_before_the_first_step(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dry_run, "free_bytes", lambda directory: 1000)
    assert main(flags(data, tmp_path / "output", "--use_lora", "--lora_r", "4")) == 2
    told = capsys.readouterr()
    assert re.search(r"output: found 1,000 bytes free there, expected [\d,]+ for what is saved at the end\n", told.err)
    assert "step 1/" not in told.out


def test_disk_without_room_for_a_checkpoint_is_noticed(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dry_run, "free_bytes", lambda directory: 2_500_000)
    assert main(flags(data, tmp_path / "output", "--use_lora", "--lora_r", "4", steps=1)) == 0
    assert re.search(r"notice: --output_dir .*: found 2,500,000 bytes free there, expected ", capsys.readouterr().out)
