"""``minicpmv predict`` and ``eval`` with a model in several processes: what one process would write, or one error."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from minicpmv.cli.main import main
from tests.run.forked import exit_code, start
from tests.run.test_predict import MODEL, flags, make_data

_TWO = ["--processes", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=12)


@pytest.mark.long
def test_two_processes_write_the_file_of_one(data: str, tmp_path: Path) -> None:
    """Drawn at random, which follows from the seed and the record."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    drawn = ["--batch-size", "2", "--sample", "--temperature", "2"]
    assert main(flags(data, one, *drawn)) == 0
    assert main(flags(data, two, *drawn, *_TWO)) == 0
    assert two.read_bytes() == one.read_bytes()
    assert not _workers(os.getpid())


@pytest.mark.slow
def test_two_processes_measure_what_one_does(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = tmp_path / "known.json"
    records = json.loads(Path(data).read_text(encoding="utf-8"))
    known.write_text(json.dumps([record for record in records if len(record["conversations"]) == 2]))
    printed: list[str] = []
    for name, more in (("one", []), ("two", _TWO)):
        output = str(tmp_path / f"{name}.jsonl")
        metrics = ["--metrics", "cer,cider,loss", "--batch-size", "2", "--max-new-tokens", "8", "--output", output]
        asked = ["eval", str(MODEL), str(known), "--image-root", str(Path(data).parent), "--json"]
        assert main([*asked, *metrics, *more]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


@pytest.mark.slow
def test_a_picture_that_is_gone_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers before it are kept, and the same command goes on where it is mended."""
    data, output = make_data(tmp_path, num_records=12), tmp_path / "out.jsonl"
    whole = tmp_path / "whole.jsonl"
    assert main(flags(data, whole, "--batch-size", "2")) == 0
    picture = tmp_path / "4.png"
    content = picture.read_bytes()
    log = tmp_path / "log"
    process = start(flags(data, output, "--batch-size", "2", *_TWO), log=log, module="minicpmv")
    while not _workers(process.pid):
        time.sleep(0.01)
    picture.write_bytes(content[: len(content) // 2])  # it was sound when it was checked
    assert exit_code(process) == 2
    said = log.read_text()
    assert "4.png" in said
    assert "Traceback" not in said
    picture.write_bytes(content)
    os.utime(picture, ns=(1, 1))
    assert main(flags(data, output, "--batch-size", "2", "--overwrite")) == 0
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all, by Ctrl-C", "one of them", "the command itself"])
def test_nobody_stays_behind_and_the_same_command_goes_on(whom: str, tmp_path: Path) -> None:
    data, output, log = make_data(tmp_path, num_records=12), tmp_path / "out.jsonl", tmp_path / "log"
    options = ["--batch-size", "2", "--sample", "--temperature", "2"]
    whole = tmp_path / "whole.jsonl"
    assert main(flags(data, whole, *options, tokens=400)) == 0
    arguments = flags(data, output, *options, *_TWO, tokens=400)
    process = start(arguments, log=log, module="minicpmv")
    partial = output.with_name("out.jsonl.partial")
    ends = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 3):
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < ends
        time.sleep(0.002)
    workers = _workers(process.pid)
    assert len(workers) == 2
    if whom == "one of them":
        workers[0].kill()
        assert exit_code(process) == 2
        assert "--processes: found that the process on cpu has exited with -9" in log.read_text()
    elif whom == "the command itself":
        process.kill()
        assert exit_code(process) == -9
    else:
        for each in (psutil.Process(process.pid), *workers):  # as a terminal does
            each.send_signal(signal.SIGINT)
        assert exit_code(process) == 130
        assert log.read_text() == "interrupted\n"
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert not output.exists()
    assert main(arguments) == 0
    assert output.read_bytes() == whole.read_bytes()


def _workers(process_id: int | None) -> list[psutil.Process]:
    """The processes that a command has started to answer; there is also one that multiprocessing tidies up with."""
    children: list[Any] = psutil.Process(process_id).children()
    return [child for child in children if "--multiprocessing-fork" in child.cmdline()]
