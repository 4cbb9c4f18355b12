"""Decides how many processes read data: by cores, and by the memory through which they hand batches over."""

from __future__ import annotations

from minicpmv.machine.value import Choice, Machine

__all__ = ["default_workers", "most_workers", "workers_that_fit"]

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

    A worker that finds no room there neither ends nor delivers, and the run would wait for it.

    Args:
        machine: Whose shared memory it is.
        asked: Workers that each process of the run would have.
        prefetched: Batches that each makes ahead.
        batch_bytes: Of the heaviest batch.
    """
    if machine.shared_bytes is None or not asked:
        return Choice(asked, "nothing limits what they hand over")
    of_process = machine.shared_bytes // machine.num_local_processes
    fitting = (of_process // max(batch_bytes, 1) - _SPARE) // max(prefetched, 1)
    needed = (asked * prefetched + _SPARE) * batch_bytes * machine.num_local_processes
    reason = (
        f"/dev/shm has {_mib(machine.shared_bytes)} free of the {_mib(needed)} that {asked} in each process may need"
    )
    return Choice(max(0, min(asked, fitting)), reason)


def _mib(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB" if number >= 2**20 else f"{number / 2**10:,.0f} KiB"
