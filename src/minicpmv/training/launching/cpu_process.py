"""Configures the C library and OpenMP for training on a CPU, before torch is loaded."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from minicpmv.machine.system import shown_devices
from minicpmv.wording import FALSE

__all__ = ["asks_for_cpu", "keep_freed_memory", "prepare_for_cpu"]

# Numbers of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


def prepare_for_cpu(flags: Sequence[str]) -> None:
    """Make threads wait without spinning, and keep freed memory, unless there is a GPU to train on.

    Args:
        flags: The run's flags.
    """
    if shown_devices() and not asks_for_cpu(flags):
        return
    # OpenMP threads that wait by spinning slow a run on few cores down tenfold. A value set by the user is kept.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def asks_for_cpu(flags: Sequence[str]) -> bool:
    """Return whether flags force the run onto the CPU, whatever devices there are; the last such flag wins.

    >>> asks_for_cpu(["--use_cpu", "true"]), asks_for_cpu(["--no-cuda"]), asks_for_cpu(["--use_cpu=false"])
    (True, True, False)
    """
    asked = False
    for place, flag in enumerate(flags):
        name, equals, value = flag.replace("-", "_").partition("=")
        if name in ("__use_cpu", "__no_cuda"):
            behind = flags[place + 1] if place + 1 < len(flags) else ""
            given = value if equals else "" if behind.startswith("--") else behind
            asked = given.lower() not in FALSE
    return asked


def keep_freed_memory() -> bool:
    """Configure glibc not to return large blocks to the system; return whether it worked. Other C libraries cannot.

    A training step allocates and frees gigabytes. By default each large block is mapped again and touched page by page,
    about a million page faults per step: 4 % of its time on idle cores, more where they are shared.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
