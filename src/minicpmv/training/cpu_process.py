"""What a process that trains on a CPU asks of the C library and of OpenMP, before torch is loaded."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["has_gpu", "keep_freed_memory", "prepare_for_cpu"]

# Numbers of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


def prepare_for_cpu() -> None:
    """Let threads wait without spinning, and keep memory that was freed, unless there is a GPU to train on."""
    if has_gpu():
        return
    # OpenMP threads that wait by spinning slow a run on few cores down tenfold. A user's own value stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def has_gpu() -> bool:
    """Whether the machine has an NVIDIA device, without asking torch."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def keep_freed_memory() -> bool:
    """Tell glibc not to hand large blocks back to the system; return whether it will. Other C libraries cannot.

    A training step allocates and frees gigabytes. By default each large block is mapped anew and touched page by page,
    about a million page faults a step: 4 % of its time on idle cores, more where they are shared.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
