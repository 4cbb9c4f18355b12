"""Describes the hardware that a run computes on: briefly for its log, and in fields for its record."""

from __future__ import annotations

from typing import Any

from minicpmv.machine.kernels import attention_kernel
from minicpmv.machine.value import Machine
from minicpmv.wording import counted

__all__ = ["describe_machine", "name_machine"]


def describe_machine(machine: Machine, *, device_type: str) -> dict[str, Any]:
    """Return the hardware that is used, as JSON.

    Args:
        machine: What was found.
        device_type: ``cpu`` where accelerators are not used.
    """
    described: dict[str, Any] = {"cores": machine.num_cores, "ram_gib": _gib(machine.ram_bytes)}
    if device_type == "cpu":
        return described
    accelerators = [
        {
            "name": each.name,
            "memory_gib": None if each.memory_bytes is None else _gib(each.memory_bytes),
            "attention": attention_kernel(each).value,
        }
        for each in machine.accelerators
    ]
    return described | {"accelerators": accelerators, "driver": machine.driver}


def name_machine(machine: Machine, *, device_type: str) -> str:
    """Name the hardware in a few words, by its first accelerator.

    Args:
        machine: What was found.
        device_type: ``cpu`` where accelerators are not used.
    """
    if device_type == "cpu" or not machine.accelerators:
        return counted(machine.num_cores, "core")
    first = machine.accelerators[0]
    memory = [] if first.memory_bytes is None else [f"{_gib(first.memory_bytes):g} GiB"]
    driver = [] if machine.driver is None else [f"driver {machine.driver}"]
    return ", ".join([first.name, *memory, f"{attention_kernel(first).value} attention", *driver])


def _gib(number: int) -> float:
    return round(number / 2**30, 1)
