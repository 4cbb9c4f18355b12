"""How many processes a command starts follows from the GPUs that a process of its own has looked at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from minicpmv.training.launching import starting
from minicpmv.training.launching.following import is_launched
from minicpmv.training.launching.starting import count_gpus, start_processes


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        ({"MASTER_ADDR": "10.0.0.1", "NNODES": "2"}, False),
        ({"RANK": "0"}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"WORLD_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
    ],
)
def test_a_launcher_is_known_by_its_variables(variables: dict[str, str], launched: bool) -> None:
    assert is_launched(variables) == launched


def test_what_was_launched_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(starting, "count_gpus", lambda flags: pytest.fail("nobody has to count"))
    assert start_processes(["--num_processes", "2"]) is None


def test_one_gpu_is_trained_on_by_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert start_processes([]) is None


@pytest.mark.parametrize(
    ("answer", "number"),
    [("echo 8 bf16 50000", 8), ("echo 1 bf16 50000", 1), ("echo 'error: machine: found' >&2; exit 2", 0)],
    ids=["eight", "slices of cards", "a driver too old"],
)
def test_several_gpus_count_as_a_process_finds_that_looks_at_them(
    answer: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\n{answer}\n')
    stub.chmod(0o755)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(sys, "executable", str(stub))
    assert count_gpus(["--bf16", "true"]) == number
    assert (tmp_path / "asked").read_text() == "-m minicpmv.training.launching.hardware --bf16 true\n"
