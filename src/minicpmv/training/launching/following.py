"""Ends training processes with their launcher. A killed launcher cannot end them, and they would keep their GPUs."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping

__all__ = ["LAUNCHER", "follow_launcher", "is_launched", "lead"]

LAUNCHER = "MINICPMV_LAUNCHER"
"""Environment variable with the launcher's process id."""
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables of torchrun and similar launchers, and of MPI."""
_SET_PARENT_DEATH_SIGNAL = 1  # prctl's, on Linux


def is_launched(variables: Mapping[str, str]) -> bool:
    """Return whether, by the environment, a launcher has started this process."""
    return any(name in variables for name in _OF_A_LAUNCHER)


def lead() -> None:
    """Make the processes that this one starts from here on end with it."""
    os.environ[LAUNCHER] = str(os.getpid())


def follow_launcher() -> None:
    """Have the kernel send this process SIGTERM when the launcher that started it dies; Linux only."""
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is None:
        return
    try:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    except (AttributeError, OSError, TypeError):  # not Linux
        return
    if os.getppid() != int(launcher):  # it had already died
        os.kill(os.getpid(), signal.SIGTERM)
