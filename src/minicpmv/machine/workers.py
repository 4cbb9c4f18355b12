"""Decides how many processes read data: by cores, and by the memory through which they hand batches over."""

from __future__ import annotations

from minicpmv.machine.value import Choice, Machine

__all__ = ["bytes_in_flight", "default_workers", "most_workers", "workers_that_fit"]

_ENOUGH = 2
"""Workers of one training process: the second decodes while the first waits for a disk."""
_PER_CORE, _ALWAYS_ALLOWED = 4, 16
"""Workers wait for disks as well; more than a few for each core only take memory."""
_SPARE = 2
"""Batches that are neither made nor waiting: one that is handed over, one that is computed on."""


def default_workers(machine: Machine) -> Choice[int]:
    """Choose how many workers each process of a run has, where nobody says."""
    if not machine.accelerators:
        return Choice(0, "on a processor they would take the time of the computation")
    share = machine.num_cores // machine.num_local_processes
    if share <= _ENOUGH:
        return Choice(1, f"each process has {share} core(s), and decoding images must not keep its accelerator waiting")
    return Choice(_ENOUGH, "decoding images must not keep the accelerator waiting")


def most_workers(machine: Machine) -> int:
    """Say from which number on somebody cannot mean it."""
    return max(_ALWAYS_ALLOWED, _PER_CORE * machine.num_cores)


def workers_that_fit(machine: Machine, *, asked: int, prefetched: int, batch_bytes: int) -> Choice[int]:
    """Choose how many workers can hand batches over at once, through ``/dev/shm``.

    Args:
        machine: Whose shared memory it is.
        asked: Workers that each process of the run would have.
        prefetched: Batches that each makes ahead.
        batch_bytes: Of the heaviest batch.
    """
    if machine.shared_bytes is None:
        return Choice(asked, "there is no /dev/shm, and nothing limits what they hand over")
    needs = [bytes_in_flight(count, prefetched=prefetched, batch_bytes=batch_bytes) for count in range(asked + 1)]
    of_process = machine.shared_bytes / machine.num_local_processes
    fitting = max(count for count, need in enumerate(needs) if need <= of_process)
    has, needed = _size(machine.shared_bytes), _size(needs[-1] * machine.num_local_processes)
    return Choice(fitting, f"/dev/shm has {has} free of the {needed} that their batches may need")


def bytes_in_flight(workers: int, *, prefetched: int, batch_bytes: int) -> int:
    """Bound what the batches of one process take in ``/dev/shm`` at once.

    Args:
        workers: Of that process; without any, nothing is handed over.
        prefetched: Batches that each makes ahead.
        batch_bytes: Of the heaviest batch.
    """
    return (workers * prefetched + _SPARE) * batch_bytes if workers else 0


def _size(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB" if number >= 2**20 else f"{number / 2**10:,.0f} KiB"
