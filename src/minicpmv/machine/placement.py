"""Decides how processes are placed on accelerators: one on each, and only one on slices of a card."""

from __future__ import annotations

from minicpmv.errors import MachineError
from minicpmv.machine.value import Choice, Machine
from minicpmv.wording import counted

__all__ = ["processes_on", "refuse_crowding"]


def processes_on(machine: Machine) -> Choice[int]:
    """Choose how many processes a run has on this machine."""
    count = len(machine.accelerators)
    if not count:
        return Choice(1, "on a CPU the threads of one process share the work")
    if any(accelerator.is_slice for accelerator in machine.accelerators):
        return Choice(1, "CUDA shows a process one slice of a card (MIG), and NCCL does not connect slices")
    return Choice(count, "each accelerator has one")


def refuse_crowding(machine: Machine) -> None:
    """Make sure that each process of a run has an accelerator of its own.

    Raises:
        MachineError: There are more processes than accelerators, or several on slices of cards.
    """
    slices = [accelerator.name for accelerator in machine.accelerators if accelerator.is_slice]
    if slices and machine.num_processes > 1:
        raise MachineError(
            f"machine: found {machine.num_processes} processes on slices of cards ({slices[0]}), expected one: NCCL "
            "does not connect slices (MIG)\n  fix: --num_processes 1, GPUS_PER_NODE=1 of the scripts, or whole cards"
        )
    count = len(machine.accelerators)
    if machine.num_local_processes > count > 0:
        raise MachineError(
            f"machine: found {machine.num_local_processes} processes for {counted(count, 'GPU')}, expected one for "
            "each\n"
            f"  fix: --num_processes {count}, GPUS_PER_NODE={count} of the scripts, or show more (CUDA_VISIBLE_DEVICES)"
        )
