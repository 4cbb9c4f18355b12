"""Refuses what no launcher can work with: the numbers it is told, and those that one has left in the environment.

torch would end in a traceback about a variable that nobody has typed, or wait for a process that never comes.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping, Sequence

from minicpmv.errors import UsageError
from minicpmv.machine.system import num_cores

__all__ = ["ALWAYS_ALLOWED", "refuse_wrong_launch", "refuse_wrong_variables"]

_PLACES = ("RANK", "LOCAL_RANK")
_NUMBERS = (*_PLACES, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
_TOGETHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which processes find each other: each is needed, and a launcher sets all."""
ALWAYS_ALLOWED = 16
"""Processes on a machine of few cores; each takes memory for the whole of Python and torch."""
_OWN_COUNT = ("auto", "cpu", "gpu", "xpu")
"""With these torch counts devices itself."""


def refuse_wrong_variables(variables: Mapping[str, str]) -> None:
    """Make sure that the environment describes this process's place among others completely, or not at all.

    Args:
        variables: The environment.

    Raises:
        UsageError: A variable is no number, or some of those that belong together are missing.
    """
    for name in _NUMBERS:
        if name in variables and not variables[name].strip().lstrip("-").isdecimal():
            raise UsageError(
                f"environment: found {name}={variables[name]!r}, expected a whole number\n  fix: unset {name}"
            )
    given = [name for name in _TOGETHER[:3] if name in variables]
    if not given or _is_of_one(variables):
        return
    missing = [name for name in _TOGETHER if name not in variables]
    found = ", ".join(f"{name}={variables[name]}" for name in given)
    if missing:
        raise UsageError(
            f"environment: found {found} without {', '.join(missing)}, expected all of them or none: a launcher sets "
            f"them together\n  fix: unset {' '.join(given)}, or start with a launcher, such as torchrun"
        )
    if not 0 <= int(variables["RANK"]) < int(variables["WORLD_SIZE"]):
        raise UsageError(
            f"environment: found {found}, expected a RANK from 0 to {int(variables['WORLD_SIZE']) - 1}\n"
            f"  fix: unset {' '.join(given)}, or correct them"
        )


def _is_of_one(variables: Mapping[str, str]) -> bool:
    return variables.get("WORLD_SIZE", "1") == "1" and all(variables.get(name, "0") == "0" for name in _PLACES)


def refuse_wrong_launch(arguments: Sequence[str]) -> None:
    """Make sure that processes and machines are numbers with which a launcher can start.

    Args:
        arguments: torchrun's; the scripts' variables, or ``--num_processes``, say the same.

    Raises:
        UsageError: They are not, or a single machine's own address does not exist.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("nproc_per_node", "1"), ("nnodes", "1"), ("node_rank", "0"), ("master_port", "0")):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", default=default)
    parser.add_argument("--master_addr", "--master-addr", default="localhost")
    end = arguments.index("-m") if "-m" in arguments else len(arguments)
    told, _ = parser.parse_known_args(arguments[:end])
    if told.nproc_per_node not in _OWN_COUNT:
        _number("GPUS_PER_NODE, --num_processes", told.nproc_per_node, 1, max(ALWAYS_ALLOWED, num_cores()))
    _number("MASTER_PORT", told.master_port, 0, 65535)
    if ":" in told.nnodes:  # torchrun's range of machines, in which they number themselves
        return
    nodes = _number("NNODES", told.nnodes, 1, None)
    _number("NODE_RANK", told.node_rank, 0, nodes - 1)
    if nodes == 1 and not _is_known(told.master_addr):  # of several machines the first may get its name later
        raise UsageError(
            f"MASTER_ADDR: found {told.master_addr!r}, which is no address that this machine knows, expected one of "
            "its own\n  fix: unset MASTER_ADDR"
        )


def _number(name: str, text: str, least: int, most: int | None) -> int:
    value = int(text) if text.isdecimal() else -1
    if value < least or (most is not None and value > most):
        expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
        raise UsageError(
            f"{name}: found {text!r}, expected {expected}\n  fix: set it to {least if least else 0}, or unset it"
        )
    return value


def _is_known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):  # UnicodeError: a name longer than any is
        return False
