"""Reads what the system shows of its hardware, without torch: some of it is needed before torch is loaded."""

from __future__ import annotations

import math
import os
import re
import shutil
import sysconfig
from pathlib import Path

from minicpmv.machine.value import Tool

__all__ = ["driver_version", "find_tools", "num_cores", "num_launched", "shared_bytes", "shown_devices"]

_HIDDEN = re.compile(r"\s*|-.*|NoDevFiles")  # values that hide all devices; torch and CUDA read them alike
_DRIVER = re.compile(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s")


def shown_devices(root: Path = Path("/")) -> tuple[str, ...]:
    """Name the accelerators that the system shows and that are not hidden, whether or not torch can use them.

    Args:
        root: Root of the system's files.
    """
    found: list[str] = []
    if not _is_hidden("CUDA_VISIBLE_DEVICES"):
        num_nvidia = len(list((root / "dev").glob("nvidia[0-9]*")))
        # Under WSL2 there is one device for cards of all makers; Windows adds NVIDIA's library.
        if not num_nvidia and (root / "dev/dxg").exists() and any((root / "usr/lib/wsl/lib").glob("libcuda.so*")):
            num_nvidia = 1
        found += ["NVIDIA GPU"] * num_nvidia
    if not _is_hidden("ASCEND_RT_VISIBLE_DEVICES"):
        found += ["Ascend NPU"] * len(list((root / "dev").glob("davinci[0-9]*")))
    return tuple(found)


def _is_hidden(variable: str) -> bool:
    return _HIDDEN.fullmatch(os.environ.get(variable, "0")) is not None


def driver_version(root: Path = Path("/")) -> str | None:
    """Return the version of NVIDIA's driver, if the system shows it.

    Args:
        root: Root of the system's files.
    """
    try:
        first = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return None
    found = _DRIVER.search(f"{first} ")
    return None if found is None else found[1]


def num_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use, within its container's share of time (cgroup v2).

    Args:
        root: Root of the system's files.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # ValueError: "max", no limit
        return allowed


def num_launched(variable: str) -> int:
    """Return how many processes a launcher has started, by one of its variables; 1 where that says no such number.

    Args:
        variable: ``WORLD_SIZE``, on all machines, or ``LOCAL_WORLD_SIZE``, on this one.
    """
    text = os.environ.get(variable, "")
    return max(1, int(text)) if text.isdecimal() else 1


def shared_bytes(place: Path = Path("/dev/shm")) -> int | None:
    """Return the free bytes of shared memory; None if there is no such place.

    Args:
        place: Where Linux has it.
    """
    try:
        found = os.statvfs(place)
    except (AttributeError, OSError):  # AttributeError: Windows
        return None
    return found.f_bavail * found.f_frsize


def find_tools() -> frozenset[Tool]:
    """Look for build tools where torch, Triton and DeepSpeed look for them."""
    toolkit = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    found: dict[Tool, bool] = {
        "C compiler": any(map(_is_command, [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"])),
        "C++ compiler": _is_command(os.environ.get("CXX") or "g++"),
        "Python.h": Path(sysconfig.get_path("include"), "Python.h").is_file(),
        "ninja": _is_command("ninja"),
        "nvcc": _is_command("nvcc") or _is_command(f"{toolkit}/bin/nvcc"),
    }
    return frozenset(tool for tool, is_there in found.items() if is_there)


def _is_command(words: str) -> bool:
    return shutil.which(words.split()[0]) is not None
