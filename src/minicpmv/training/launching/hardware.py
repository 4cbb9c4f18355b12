"""Prints what the scripts need to start processes: ``python -m minicpmv.training.launching.hardware FLAGS``.

That is the number of processes, their precision and a free port. Exits with 2 and a message if the machine has an
unusable device.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import replace

from minicpmv.devices.inspection import inspect_machine
from minicpmv.errors import MachineError
from minicpmv.machine.placement import processes_on
from minicpmv.machine.precision import precision
from minicpmv.machine.support import refuse_unusable
from minicpmv.terminal.streams import complain
from minicpmv.training.launching.cpu_process import asks_for_cpu

__all__ = ["main"]


def main(flags: Sequence[str]) -> int:
    """Inspect the machine; return the exit code.

    Args:
        flags: The flags of the training.
    """
    machine = inspect_machine()
    on_processor = asks_for_cpu(flags)
    try:
        if not on_processor:
            refuse_unusable(machine, on_processor="--use_cpu true")
    except MachineError as error:
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
