"""Decides how many processes read data, by cores and by the memory through which they hand over batches."""

from __future__ import annotations

from minicpmv.machine.value import Choice, Machine
from minicpmv.wording import counted, format_bytes

__all__ = ["bytes_in_flight", "default_workers", "most_workers", "workers_that_fit"]

_ENOUGH = 2
"""Workers of one training process: the second decodes while the first waits for a disk."""
_PER_CORE, _ALWAYS_ALLOWED = 4, 16
"""Workers wait for disks as well; more than a few for each core only take memory."""
_SPARE = 2
"""Batches in use: one being handed over, one being computed on."""


def default_workers(machine: Machine) -> Choice[int]:
    """Choose the default number of workers of each process."""
    if not machine.accelerators:
        return Choice(0, "on a CPU they would take time from the computation")
    share = machine.num_cores // machine.num_local_processes
    if share <= _ENOUGH:
        return Choice(
            1, f"each process has {counted(share, 'core')}, and decoding images must not keep its accelerator waiting"
        )
    return Choice(_ENOUGH, "decoding images must not keep the accelerator waiting")


def most_workers(machine: Machine) -> int:
    """Return the largest number of workers that is plausible."""
    return max(_ALWAYS_ALLOWED, _PER_CORE * machine.num_cores)


def workers_that_fit(machine: Machine, *, asked: int, prefetched: int, batch_bytes: int) -> Choice[int]:
    """Choose how many workers can hand over batches at once, through ``/dev/shm``.

    Args:
        machine: Its shared memory is the limit.
        asked: Workers that each process of the run would have.
        prefetched: Batches that each makes ahead.
        batch_bytes: Bytes of the heaviest batch.
    """
    if machine.shared_bytes is None:
        return Choice(asked, "there is no /dev/shm to limit what they hand over")
    needs = [bytes_in_flight(count, prefetched=prefetched, batch_bytes=batch_bytes) for count in range(asked + 1)]
    of_process = machine.shared_bytes / machine.num_local_processes
    fitting = max(count for count, need in enumerate(needs) if need <= of_process)
    has, needed = format_bytes(machine.shared_bytes), format_bytes(needs[-1] * machine.num_local_processes)
    return Choice(fitting, f"/dev/shm has {has} free, and their batches may need {needed}")


def bytes_in_flight(workers: int, *, prefetched: int, batch_bytes: int) -> int:
    """Bound the bytes that one process's batches take in ``/dev/shm`` at once.

    Args:
        workers: Workers of that process; with 0, nothing is handed over.
        prefetched: Batches that each makes ahead.
        batch_bytes: Bytes of the heaviest batch.
    """
    return (workers * prefetched + _SPARE) * batch_bytes if workers else 0
