"""Ends a training process with its launcher. One that is killed ends nobody, and they would keep their GPUs."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping

__all__ = ["follow_launcher", "is_launched", "lead"]

_LAUNCHER = "MINICPMV_LAUNCHER"
"""Variable that holds the launcher's process id."""
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables of torchrun and similar launchers, and of MPI's."""
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, on Linux


def is_launched(variables: Mapping[str, str]) -> bool:
    """Whether the environment says that a launcher has started this process, alone or with others."""
    return any(name in variables for name in _OF_A_LAUNCHER)


def lead() -> None:
    """Let the processes that this one starts from here on follow it."""
    os.environ[_LAUNCHER] = str(os.getpid())


def follow_launcher() -> None:
    """Have this process told to stop, as by SIGTERM, when the launcher that started it is gone; Linux alone can."""
    launcher = os.environ.pop(_LAUNCHER, None)
    if launcher is None:
        return
    try:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    except (AttributeError, OSError, TypeError):  # not Linux
        return
    if os.getppid() != int(launcher):  # it was gone already
        os.kill(os.getpid(), signal.SIGTERM)
