"""Work on data that real processes share through gloo: results, and faults that reach all of them."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from minicpmv.data import machine_copies
from minicpmv.data.sharing import Sharing
from minicpmv.errors import ConfigError, UsageError
from minicpmv.training.distributed import processes
from minicpmv.training.distributed.processes import LostProcessError, gather, leave_word, naming_lost_processes
from minicpmv.training.distributed.together import work_together
from tests.run.prepared import fork


def _results(number: int, folder: Path, role: Any) -> list[Any]:
    """Run a function of the rank on so many processes, and return what each returns."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = [fork(_run, role, rank, number, port, folder / str(rank)) for rank in range(number)]
    for process in running:
        process.join(100)
        assert process.exitcode == 0
    return [json.loads((folder / str(rank)).read_text()) for rank in range(number)]


def _run(role: Any, rank: int, number: int, port: int, result: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=number)
    processes.meet()
    result.write_text(json.dumps(role(rank)))
    os._exit(0)  # the threads of gloo are not waited for


def _exchange(rank: int) -> list[Any]:
    def work(sharing: Sharing) -> list[Any]:
        return [
            (sharing.rank, sharing.number),
            sharing.agree(lambda: 10 * rank),
            sharing.first(lambda: f"of {rank}"),
            sharing.gather("x" * rank),
            sharing.deal([f"{rank} to {other}" for other in range(sharing.number)]),
        ]

    return work_together(work)


def test_values_reach_the_processes_they_are_for(tmp_path: Path) -> None:
    found = _results(3, tmp_path, _exchange)
    for rank in range(3):
        dealt = [f"{other} to {rank}" for other in range(3)]
        assert found[rank] == [[rank, 3], 10 * rank, "of 0", ["", "x", "xx"], dealt]


def _hold(rank: int) -> list[Any]:
    """Hold one array together; process 2 is alone on its machine. Return what it holds, and mapped files."""
    if rank == 2:
        machine_copies._name_machine = lambda: "another"
    number = machine_copies._WORTH_A_FILE // 8
    work_together(lambda sharing: machine_copies.join([np.zeros(1)], sharing))  # small, so no file
    (whole,) = work_together(lambda sharing: machine_copies.join([np.full(number, rank + 1)], sharing))
    mapped = [
        line.split()[4]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if f"{tempfile.gettempdir()}/minicpmv-" in line
    ]
    child = os.fork()
    if child == 0:
        os._exit(int(whole.sum() == 6 * number))
    return [
        int(whole.sum()) // number,
        len(whole) // number,
        mapped,
        os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]),
    ]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mapped files are listed by Linux")
def test_processes_of_a_machine_hold_one_copy_of_an_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what they fork, too. The file has no name any more."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    found = _results(3, tmp_path, _hold)
    assert [each[:2] for each in found] == [[6, 3]] * 3
    assert [len(each[2]) for each in found] == [1, 1, 1]
    assert found[0][2] == found[1][2] != found[2][2]
    assert [each[3] for each in found] == [1, 1, 1]
    assert list((tmp_path / "temporary").iterdir()) == []


def _fail(rank: int) -> list[str]:
    """Fail on one rank while the others are in an exchange of another kind; where all fail, the first is heard."""
    said: list[str] = []

    def between_exchanges(sharing: Sharing) -> None:
        if rank == 2:
            raise UsageError("of 2")
        sharing.gather(rank)

    def in_an_exchange(sharing: Sharing) -> None:
        sharing.first(lambda: _raise(ConfigError("of 0")))

    def on_all(sharing: Sharing) -> None:
        sharing.gather(rank)
        raise UsageError(f"of {rank}")

    for work in (between_exchanges, in_an_exchange, on_all):
        try:
            work_together(work)
        except (ConfigError, UsageError) as error:
            said.append(f"{type(error).__name__} {error}")
    return said


def _raise(error: Exception) -> None:
    raise error


def test_a_fault_of_one_process_is_raised_on_all(tmp_path: Path) -> None:
    assert _results(3, tmp_path, _fail) == [["UsageError of 2", "ConfigError of 0", "UsageError of 0"]] * 3


def _end(rank: int) -> str:
    """Let one rank end and leave a word, while the other waits for it."""
    processes._TIME_TO_BE_ENDED = 0.0
    if rank == 1:
        leave_word("RuntimeError: no more room")
        return ""
    try:
        with naming_lost_processes():
            gather(rank)
    except LostProcessError as error:
        return str(error)
    return "nobody was missed"


def test_what_ended_a_process_is_repeated_by_those_who_miss_it(tmp_path: Path) -> None:
    told, _ = _results(2, tmp_path, _end)
    assert f"fix: what ended it: process 1 on {socket.gethostname()}: RuntimeError: no more room" in told
