"""Decides whether a machine has the tools to compile something: who needs which, and how to install them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from minicpmv.errors import MachineError
from minicpmv.machine.installed import install_command
from minicpmv.machine.value import Machine, Tool

__all__ = ["Compiled", "missing_tools", "refuse_without_tools"]

Compiled = Literal["layers on a processor", "layers on a GPU", "an optimizer on the processor", "a fused optimizer"]

_NEEDED: Mapping[Compiled, tuple[Tool, ...]] = {
    "layers on a processor": ("C++ compiler", "Python.h"),
    "layers on a GPU": ("C compiler", "Python.h"),  # Triton's launcher; the kernels themselves need neither
    "an optimizer on the processor": ("C++ compiler", "Python.h", "ninja"),
    "a fused optimizer": ("nvcc", "C++ compiler", "Python.h", "ninja"),
}
_PACKAGES: Mapping[Tool, str] = {
    "C compiler": "apt-get install gcc (CC, if set, must name one)",
    "C++ compiler": "apt-get install g++ (CXX, if set, must name one)",
    "Python.h": "apt-get install python3-dev",
    "ninja": install_command("ninja"),
    "nvcc": "install NVIDIA's CUDA toolkit",
}


def missing_tools(machine: Machine, compiled: Compiled) -> tuple[Tool, ...]:
    """Name the tools that are needed to compile something and are missing."""
    return tuple(tool for tool in _NEEDED[compiled] if tool not in machine.tools)


def refuse_without_tools(machine: Machine, compiled: Compiled, *, asked_by: str, otherwise: str) -> None:
    """Make sure that something can be compiled, before a run comes to it.

    Args:
        machine: Has the tools.
        compiled: What will be compiled.
        asked_by: The flag that asks for it.
        otherwise: The option that needs no compiler.

    Raises:
        MachineError: A tool is missing.
    """
    missing = missing_tools(machine, compiled)
    if missing:
        ways = [*dict.fromkeys(_PACKAGES[tool] for tool in missing)]
        raise MachineError(
            f"{asked_by}: found no {' and no '.join(missing)}, expected {'it' if len(missing) == 1 else 'them'}: "
            f"{compiled} must be compiled\n  fix: {', '.join(ways)}; or {otherwise}"
        )
