"""Prints what the scripts need to start processes: ``python -m minicpmv.training.launching.hardware FLAGS``.

That is the number of processes, their precision and a free port. Exits with 2 and a message if the machine has an
unusable device.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from minicpmv.errors import MiniCPMVError
from minicpmv.machine.placement import processes_on
from minicpmv.machine.precision import precision
from minicpmv.machine.shortage import naming_shortage
from minicpmv.machine.support import refuse_unusable
from minicpmv.terminal.streams import complain
from minicpmv.training.launching.cpu_process import asks_for_cpu

__all__ = ["main"]

_FIX = "raise the limit of memory (ulimit -v unlimited), end other programs, or use a machine with more"


def main(flags: Sequence[str]) -> int:
    """Inspect the machine; return the exit code.

    Args:
        flags: The flags of the training.
    """
    on_processor = asks_for_cpu(flags)
    try:
        with naming_shortage("machine", "torch", fix=_FIX):  # which is imported here, so that this can be said
            machine = import_module("minicpmv.devices.inspection").inspect_machine()
        if not on_processor:
            refuse_unusable(machine, on_processor="--use_cpu true")
    except MiniCPMVError as error:
        complain(f"error: {error}")
        return 2
    if on_processor:
        machine = replace(machine, accelerators=())
    num_gpus = processes_on(machine).value if machine.accelerators else 0
    with socket.socket() as probe:
        probe.bind(("", 0))
        print(num_gpus, precision(machine).value, probe.getsockname()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
