"""A run on data that an earlier run has checked: sooner at its first step, and the same in all else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from minicpmv.training.run import main
from tests.run.forked import run_command
from tests.run.training import flags, losses, make_data, run_here
from tests.tiny import conversation, save_picture, write_data

KEPT = ("--save_strategy", "no", "--data_cache")


def write_picture_data(folder: Path) -> Path:
    """Write one record with a picture; return the picture's path."""
    save_picture(folder / "a.bmp", 56, 56)
    texts = conversation("<image>\nWhat's this?", "A thing.")
    write_data(folder / "train.json", [{"id": "a", "image": "a.bmp", "conversations": texts}])
    return folder / "a.bmp"


def test_a_second_start_trains_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path)
    extra = ("--packing", "true", "--eval_data_path", data, "--eval_samples", "0", *KEPT, str(tmp_path / "kept"))
    runs = [run_here(flags(data, tmp_path / name, *extra)) for name in ("first", "second")]
    assert capsys.readouterr().out.count("data: 16 records as checked before") == 1
    assert losses(runs[0]) == losses(runs[1])
    assert len(losses(runs[0])) == 4
    for name in ("plan", "data", "eval_data"):
        assert runs[0][name] == runs[1][name]
    assert len(runs[0]["data"][0]["sha256"]) == 64


def test_faulty_data_start_never(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture_data(tmp_path)
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-10])
    arguments = flags(str(tmp_path / "train.json"), tmp_path / "output", *KEPT, str(tmp_path / "kept"), steps=1)
    for _ in range(2):
        assert main(arguments) == 2
        assert "[D142]" in capsys.readouterr().err
    picture.write_bytes(whole)
    assert main(arguments) == 0


def test_a_picture_that_was_replaced_since_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture_data(tmp_path)
    arguments = flags(str(tmp_path / "train.json"), tmp_path / "output", *KEPT, str(tmp_path / "kept"), steps=1)
    assert main(arguments) == 0
    capsys.readouterr()
    picture.write_bytes(picture.read_bytes()[:-10])
    assert main(arguments) == 2
    heard = capsys.readouterr()
    assert "[D142]" in heard.err
    assert "as checked before" not in heard.out


def test_a_picture_replaced_with_its_time_and_size_is_found_when_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = write_picture_data(tmp_path)
    arguments = flags(str(tmp_path / "train.json"), tmp_path / "output", *KEPT, str(tmp_path / "kept"), steps=1)
    assert main(arguments) == 0
    state = picture.stat()
    picture.write_bytes(bytes(state.st_size))
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns))
    capsys.readouterr()
    assert main(arguments) == 2
    heard = capsys.readouterr()
    assert "as checked before" in heard.out
    assert "[D202]" in heard.err


def test_a_folder_that_cannot_be_written_is_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    arguments = flags(make_data(tmp_path), tmp_path / "output", *KEPT, str(tmp_path / "file" / "kept"), steps=1)
    assert main(arguments) == 0
    notices = [line for line in capsys.readouterr().out.splitlines() if "--data_cache" in line]
    why = f"{tmp_path}/file/kept cannot be written (Not a directory)"
    assert notices == [f"notice: --data_cache: {why}; the next start checks again"]


@pytest.mark.slow
def test_each_process_checks_its_part(tmp_path: Path) -> None:
    """And a fault that one finds ends all of them, with the one message."""
    data = make_data(tmp_path)

    def start() -> subprocess.CompletedProcess[str]:
        extra = (*KEPT, str(tmp_path / "kept"), "--overwrite_output_dir", "true")
        arguments = flags(data, tmp_path / "output", *extra, steps=1)
        return run_command(arguments, processes=2, module="tests.run.judged", variables={"JUDGED": str(tmp_path)})

    done = start()
    assert done.returncode == 0, done.stderr
    assert [path.read_text() for path in sorted(tmp_path.glob("rank-*"))] == [f"{4 * 'judged '}{4 * 'counted '}"] * 2
    records = json.loads(Path(data).read_text())
    del records[7]["conversations"]
    write_data(Path(data), records)
    done = start()
    assert done.returncode != 0
    assert done.stderr.count("[D111]") == 1
    assert "error: " in done.stderr
