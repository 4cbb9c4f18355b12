"""Measures total and free memory: an accelerator's, or the machine's within its container."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

__all__ = ["free_memory", "total_memory"]

_CONTAINER = Path("/sys/fs/cgroup")  # Linux, cgroup v2; elsewhere there is no such file and the machine counts


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated; memory that only caches files counts as free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    limit, used = _read("memory.max"), _read("memory.current")
    if limit is None or used is None:
        return available
    return min(available, max(limit - used + _cached(), 0))


def total_memory(device: torch.device) -> int:
    """Return the total bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    total = psutil.virtual_memory().total
    return min(total, _read("memory.max") or total)


def _read(name: str) -> int | None:
    try:
        return int((_CONTAINER / name).read_text())
    except (OSError, ValueError):  # ValueError: "max", no limit
        return None


def _cached() -> int:
    try:
        lines = (_CONTAINER / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
