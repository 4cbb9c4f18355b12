"""Machines that nobody here has, and the one without a GPU that everybody has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minicpmv.machine.value import Accelerator, Machine, TorchBuild

__all__ = ["CPU", "GPU", "OLD_GPU", "card", "machine_with"]

_CUDA_13 = TorchBuild(
    version="2.13.0+cu130",
    platform="CUDA",
    platform_version="13.0",
    architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
)

CPU = Machine(
    torch=TorchBuild(version="2.13.0+cpu", platform="no GPU"),
    num_cores=8,
    ram_bytes=2**35,
    tools=frozenset({"C compiler", "C++ compiler", "Python.h", "ninja"}),
)


def card(name: str, capability: tuple[int, int], gib: float = 16) -> Accelerator:
    """One of NVIDIA's."""
    return Accelerator(name=name, kind="cuda", capability=capability, memory_bytes=round(gib * 2**30))


def machine_with(*accelerators: Accelerator, **fields: Any) -> Machine:
    """One that has these, and a torch that was built for CUDA unless ``fields`` say otherwise."""
    shown = ("NVIDIA GPU",) * len(accelerators)
    return replace(
        CPU, **{"torch": _CUDA_13, "shown": shown, "accelerators": accelerators, "driver": "580.65.06"} | fields
    )


GPU = machine_with(card("NVIDIA A100-SXM4-80GB", (8, 0), 80), card("NVIDIA A100-SXM4-80GB", (8, 0), 80))
OLD_GPU = machine_with(card("Tesla T4", (7, 5)))
