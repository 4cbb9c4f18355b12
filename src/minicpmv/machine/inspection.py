"""Looks at the machine: the one module here that asks torch and the system."""

from __future__ import annotations

import torch

from minicpmv.machine.value import Accelerator

__all__ = ["look_at"]


def look_at(device: torch.device) -> Accelerator:
    """Return what an accelerator is. A processor is none."""
    assert device.type != "cpu", "a processor is no accelerator"
    if device.type != "cuda":
        return Accelerator(name=device.type, kind=device.type if device.type in ("mps", "npu") else "other")
    found = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return Accelerator(name=found.name, kind="rocm", memory_bytes=found.total_memory)
    return Accelerator(
        name=found.name, kind="cuda", memory_bytes=found.total_memory, capability=(found.major, found.minor)
    )
