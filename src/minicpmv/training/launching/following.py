"""Ends a training process with its launcher. One that is killed ends nobody, and they would keep their GPUs."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["follow_launcher", "lead"]

_LAUNCHER = "MINICPMV_LAUNCHER"
"""Variable that holds the launcher's process id."""
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, on Linux


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
