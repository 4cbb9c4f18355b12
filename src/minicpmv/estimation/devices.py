"""Devices by name: their memory, and the peak of their matrix products. A size alone, such as 24GB, has no peak."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import torch

from minicpmv.errors import UsageError

__all__ = ["DEVICES", "Device", "find_device", "measure_cpu"]


class Device(NamedTuple):
    """One GPU, or the CPU at hand."""

    name: str
    memory_gib: float | None
    half_tflops: float | None = None
    """Dense matrix products in bfloat16 with float32 sums; float16 where there is no bfloat16."""
    float32_tflops: float | None = None
    has_bf16: bool = True


# Source: NVIDIA's data sheets and architecture white papers, dense figures; of the server cards the SXM form unless the
# name says otherwise. Consumer cards: with float32 sums, which is half of what is advertised.
DEVICES = {
    device.name: device
    for device in (
        Device("t4", 15, 65, 8.1, has_bf16=False),
        Device("v100", 16, 125, 15.7, has_bf16=False),
        Device("v100-32g", 32, 125, 15.7, has_bf16=False),
        Device("3090", 24, 71, 35.6),
        Device("4090", 24, 165, 82.6),
        Device("l4", 22.5, 121, 30.3),
        Device("a10", 22.5, 125, 31.2),
        Device("a6000", 48, 155, 38.7),
        Device("l40s", 45, 362, 91.6),
        Device("a100", 40, 312, 19.5),
        Device("a100-80g", 80, 312, 19.5),
        Device("h100", 80, 989, 67),
        Device("h200", 140, 989, 67),
    )
}


def find_device(written: str) -> Device:
    """Read ``--gpu``: a name, or a number of gigabytes, which for a card are GiB.

    >>> find_device("24GB").memory_gib
    24.0

    Raises:
        UsageError: It is neither.
    """
    name = written.strip().lower()
    if name in DEVICES:
        return DEVICES[name]
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:g|gb|gib)", name)
    if size is None or float(size[1]) == 0:
        raise UsageError(
            f"--gpu: found {written!r}, expected a size such as 24GB, or one of {', '.join(DEVICES)}\n"
            "  fix: give the card's memory"
        )
    return Device(name, float(size[1]))


def measure_cpu(dtype: torch.dtype) -> Device:
    """Time matrix products on this machine, for a fraction of a second."""
    side = 1024
    left, right = torch.ones(side, side, dtype=dtype), torch.ones(side, side, dtype=dtype)
    torch.mm(left, right)  # the first one sets the library up
    started, number = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        torch.mm(left, right)
        number += 1
    tflops = 2 * side**3 * number / (time.perf_counter() - started) / 1e12
    return Device("cpu", None, tflops, tflops)
