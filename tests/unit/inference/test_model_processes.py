"""Work is divided among processes, and its results come as one process would give them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from minicpmv.errors import UsageError
from minicpmv.inference.model_processes import Models, choose_devices, open_models
from tests.tiny import FIXTURES

_MODEL = str(FIXTURES / "v2_6")


def load(device: str) -> Any:
    """Stand for a model: these tests are about the processes."""
    return (device, os.getpid())


def echo(loaded: Any, tasks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    for task in tasks:
        if len(task) == 1:
            time.sleep(0.05)  # so that others overtake it
        yield loaded[1], task


def fail(loaded: Any, tasks: Iterator[int]) -> Iterator[int]:
    for task in tasks:
        if task == 5:
            raise UsageError("five")
        time.sleep(0.02)
        yield task


def die(loaded: Any, tasks: Iterator[int]) -> Iterator[int]:
    for task in tasks:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield task


def workers() -> set[int]:
    """Return the processes of this one that hold a model, those of another test too."""
    return {each.pid for each in psutil.Process().children() if "--multiprocessing-fork" in each.cmdline()}


def open_two() -> Any:
    return open_models(_MODEL, load, ["cpu", "cpu"])


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with open_two() as opened:
        yield opened


@pytest.mark.parametrize(
    "size", [pytest.param(1, marks=pytest.mark.slow), 5_000_000], ids=["small", "larger than a pipe"]
)
def test_results_come_in_the_order_of_the_tasks(size: int, models: Models) -> None:
    tasks = [bytes([number % 2]) * (1 if number % 3 else size) for number in range(12)]
    results = list(models.map(echo, tasks))
    assert [task for _, task in results] == tasks
    assert len({process for process, _ in results}) == 2
    assert os.getpid() not in {process for process, _ in results}


def test_a_fault_in_the_tasks_is_raised_in_its_turn(models: Models) -> None:
    def tasks() -> Iterator[bytes]:
        yield from (b"0", b"1", b"2")
        raise UsageError("no more")

    seen: list[bytes] = []
    with pytest.raises(UsageError, match="no more"):
        seen.extend(task for _, task in models.map(echo, tasks()))
    assert seen == [b"0", b"1", b"2"]
    assert [task for _, task in models.map(echo, [b"again"])] == [b"again"]


@pytest.mark.slow
def test_a_fault_of_one_process_ends_all_in_its_turn() -> None:
    seen: list[int] = []
    others = workers()
    with open_two() as opened:
        assert len(workers() - others) == 2
        with pytest.raises(UsageError, match="five"):
            seen.extend(opened.map(fail, range(1000)))
    assert seen == [0, 1, 2, 3, 4]
    assert workers() == others


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all() -> None:
    with (
        pytest.raises(UsageError, match=r"--processes: found that the process on cpu has exited with -9"),
        open_two() as opened,
    ):
        list(opened.map(die, range(1000)))


def test_a_device_for_each_process() -> None:
    assert choose_devices("cpu", None, num_gpus=0) == ["cpu"]
    assert choose_devices("cpu", 3, num_gpus=0) == ["cpu"] * 3
    assert choose_devices("cpu", None, num_gpus=8) == ["cpu"]
    assert choose_devices("cuda", None, num_gpus=3) == ["cuda:0", "cuda:1", "cuda:2"]
    assert choose_devices("cuda", 2, num_gpus=3) == ["cuda:0", "cuda:1"]
    assert choose_devices("cuda:2", None, num_gpus=3) == ["cuda:2"]
    with pytest.raises(UsageError, match="--processes 4: found 3 GPU"):
        choose_devices("cuda", 4, num_gpus=3)
    with pytest.raises(UsageError, match="--device cuda:1 --processes 2: found one device"):
        choose_devices("cuda:1", 2, num_gpus=3)
