"""How many data workers a machine is for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minicpmv.machine.workers import bytes_in_flight, default_workers, most_workers, workers_that_fit
from tests.machines import CPU, GPU

MIB = 2**20


@pytest.mark.parametrize(
    ("cores", "processes", "number"), [(1, 1, 1), (2, 1, 1), (3, 1, 2), (64, 8, 2), (16, 8, 1), (4, 8, 1)]
)
def test_accelerator_is_not_kept_waiting(cores: int, processes: int, number: int) -> None:
    machine = replace(GPU, num_cores=cores, num_local_processes=processes)
    assert default_workers(machine).value == number


def test_processor_has_none_by_itself() -> None:
    assert default_workers(CPU).value == 0
    assert [most_workers(replace(CPU, num_cores=cores)) for cores in (1, 4, 64)] == [16, 16, 256]


@pytest.mark.parametrize(
    ("free", "processes", "batch", "number"),
    [
        (64 * MIB, 1, 10 * MIB, 2),  # two workers with two batches each, and two that were handed over: 60 MiB
        (59 * MIB, 1, 10 * MIB, 1),
        (64 * MIB, 1, 16 * MIB, 1),
        (64 * MIB, 1, 17 * MIB, 0),
        (64 * MIB, 2, 10 * MIB, 0),
        (64 * MIB, 8, 1 * MIB, 2),
        (400 * 2**10, 1, 77 * MIB, 0),
        (0, 1, 1, 0),
        (16 * 2**30, 8, 77 * MIB, 2),
    ],
)
def test_workers_have_room_for_what_they_make(free: int, processes: int, batch: int, number: int) -> None:
    machine = replace(GPU, shared_bytes=free, num_local_processes=processes)
    assert workers_that_fit(machine, asked=2, prefetched=2, batch_bytes=batch).value == number
    assert bytes_in_flight(number, prefetched=2, batch_bytes=batch) * processes <= free


def test_reason_is_in_units_that_are_read() -> None:
    machine = replace(GPU, shared_bytes=64 * MIB, num_local_processes=8)
    said = workers_that_fit(machine, asked=2, prefetched=2, batch_bytes=77 * MIB).reason
    assert "64.0 MiB free" in said
    assert "3.61 GiB" in said
    said = workers_that_fit(replace(machine, shared_bytes=400 * 2**10), asked=2, prefetched=2, batch_bytes=1000).reason
    assert "400 KiB free" in said
    assert "47 KiB" in said


def test_system_without_such_a_place_limits_nothing() -> None:
    machine = replace(GPU, shared_bytes=None)
    assert workers_that_fit(machine, asked=7, prefetched=2, batch_bytes=2**40).value == 7
