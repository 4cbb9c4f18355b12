"""Gives each machine one copy of large arrays that all processes of a run need, however many of them it has.

Each process has a part. The whole is a file in the machine's folder for temporary files, which loses its name as soon
as the processes there have opened it. They map it, and so do the data workers that they fork. What is small, and what
one process has to itself, stays a plain array.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.sharing import Sharing, part_of
from minicpmv.wording import format_bytes

__all__ = ["from_first", "join", "keep", "remaining"]

_logger = logging.getLogger(__name__)

_WORTH_A_FILE = 4 * 2**20
"""Bytes of all arrays that are joined together."""
_ALIGNED = 64
"""Bytes. Arrays begin at multiples."""

Array = NDArray[Any]


class _NoCopyError(Exception):
    """A machine cannot hold a copy; raised on all processes."""


def join(parts: Sequence[Array], sharing: Sharing) -> list[Array]:
    """Return whole arrays of which each process has a part. Every process must call it.

    Args:
        parts: This process's part of each array, of any length and otherwise of the same type and shape on all.
        sharing: The processes.

    Returns:
        The parts of all processes one after the other; what is one copy for all processes is read-only. Where a machine
        has no room for a copy, each process has its own, and the first one warns.
    """
    if sharing.number == 1 or not parts:
        return list(parts)
    lengths = np.array(sharing.gather([len(part) for part in parts]), np.int64)  # [processes, arrays]
    sizes = lengths * [part.itemsize * int(np.prod(part.shape[1:])) for part in parts]
    ends = np.cumsum(-(-sizes.sum(axis=0) // _ALIGNED) * _ALIGNED)
    if ends[-1] < _WORTH_A_FILE:
        return _join_plainly(parts, sharing)
    starts = np.concatenate([[0], ends[:-1]])
    places = starts + np.cumsum(sizes, axis=0) - sizes  # of each process's part of each array in the file
    try:
        content = _fill_file(parts, places, int(ends[-1]), sharing)
    except _NoCopyError as error:
        if sharing.rank == 0:
            _logger.warning(
                "temporary files: found no place for %s that the processes of a machine share (%s), expected one; each "
                "process holds a copy of its own\n  fix: free some space, or name another folder with TMPDIR",
                format_bytes(int(ends[-1])),
                error,
            )
        return _join_plainly(parts, sharing)
    wholes = zip(parts, starts.tolist(), sizes.sum(axis=0).tolist(), strict=True)
    return [
        np.frombuffer(content, part.dtype, size // part.itemsize, start).reshape(-1, *part.shape[1:])
        for part, start, size in wholes
    ]


def keep(whole: Array, sharing: Sharing) -> Array:
    """Return an array that each process has made by itself, the same one; of a large one each hands over a part."""
    if whole.nbytes < _WORTH_A_FILE:
        return whole
    mine = part_of(len(whole), sharing)
    return join([whole[mine.start : mine.stop]], sharing)[0]


def from_first(load: Callable[[], dict[str, Array] | None], sharing: Sharing) -> dict[str, Array] | None:
    """Return the arrays that the first process alone loads, by name, or None if it finds none."""
    if sharing.number == 1:
        return load()
    cut = sharing.agree(lambda: _cut(load(), sharing.number) if sharing.rank == 0 else [None] * sharing.number)
    mine = sharing.deal(cut)[0]
    return None if mine is None else dict(zip(mine, join([*mine.values()], sharing), strict=True))


def remaining(total: int, left_out: Array, sharing: Sharing) -> NDArray[np.int64]:
    """Leave out some of so many places. Every process must call it.

    Returns:
        Those that stay, in order; a shape of one dimension.
    """
    mine = part_of(total, sharing)
    stays = np.ones(len(mine), np.bool_)
    stays[left_out[(left_out >= mine.start) & (left_out < mine.stop)] - mine.start] = False
    return join([np.flatnonzero(stays) + mine.start], sharing)[0]


def _cut(found: dict[str, Array] | None, number: int) -> list[dict[str, Array] | None]:
    if found is None:
        return [None] * number
    return [
        {name: each[len(each) * rank // number : len(each) * (rank + 1) // number] for name, each in found.items()}
        for rank in range(number)
    ]


def _join_plainly(parts: Sequence[Array], sharing: Sharing) -> list[Array]:
    return [np.concatenate(each) for each in zip(*sharing.gather(tuple(parts)), strict=True)]


def _fill_file(parts: Sequence[Array], places: NDArray[np.int64], size: int, sharing: Sharing) -> mmap.mmap:
    """Write all parts to the file of each machine, and return this machine's.

    Args:
        parts: This process's part of each array.
        places: [processes, arrays] Where each part begins, in bytes.
        size: Of the file.
        sharing: The processes.
    """
    mapped: list[mmap.mmap] = []
    with _file_of_machine(sharing) as (file, makers):

        def write(theirs: Sequence[Array], rank: int) -> None:
            for part, place in zip(theirs, places[rank].tolist(), strict=True):
                _write(file, np.ascontiguousarray(part).reshape(-1).view(np.uint8), place)

        def fill() -> None:
            os.ftruncate(file, size)  # a length alone, so that what is empty can be mapped, too
            write(parts, sharing.rank)
            for rank, theirs in enumerate(received):
                if theirs is not None:
                    write(theirs, rank)

        received: list[Sequence[Array] | None] = []
        if len(set(makers)) > 1:  # the maker of each file writes what comes from other machines
            of_makers = set(makers) - {makers[sharing.rank]}
            received = sharing.deal([list(parts) if rank in of_makers else None for rank in range(sharing.number)])
        _try(fill, sharing)
        _try(lambda: mapped.append(mmap.mmap(file, size, access=mmap.ACCESS_READ)), sharing)
    return mapped[0]


@contextmanager
def _file_of_machine(sharing: Sharing) -> Iterator[tuple[int, list[int]]]:
    """Open a file that exists once on each machine; yield it, and for each process the one that made its file.

    Processes are on one machine if one kernel runs them and they can open the same file: containers have folders of
    their own, and machines may have the same name, or a common disk.
    """
    machines = sharing.gather(_name_machine())
    makers = [-1] * sharing.number
    file, path, begins = -1, "", b""

    def make() -> None:
        nonlocal file, path, begins
        file, path = tempfile.mkstemp(prefix="minicpmv-")
        begins = secrets.token_bytes(16)
        os.write(file, begins)

    try:
        while -1 in makers:  # once, but where containers share a kernel and no folder
            waiting = [rank for rank, maker in enumerate(makers) if maker < 0]
            chosen = {machines[rank]: rank for rank in reversed(waiting)}
            _try(make if sharing.rank in chosen.values() else lambda: None, sharing)
            offered = sharing.gather((path, begins))
            maker = chosen[machines[sharing.rank]] if sharing.rank in waiting else -1
            if maker not in (-1, sharing.rank):
                file = _open(*offered[maker])
            opened = sharing.gather(maker if file >= 0 else -1)
            makers = [found if rank in waiting else makers[rank] for rank, found in enumerate(opened)]
            if path:
                os.unlink(path)
                path = ""
        yield file, makers
    finally:
        if path:
            with suppress(OSError):
                os.unlink(path)
        if file >= 0:
            os.close(file)


def _name_machine() -> str:
    """Name the kernel that runs this process: as long as it runs no other has its name, and containers share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return socket.gethostname()


def _open(path: str, begins: bytes) -> int:
    """Open the file that another process has made, if this process sees the same one; else return -1."""
    try:
        file = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return -1
    if os.read(file, len(begins)) == begins:
        return file
    os.close(file)
    return -1


def _write(file: int, content: NDArray[np.uint8], place: int) -> None:
    """Write with errors where there is no room; through a mapping that would end the process."""
    left = content.data
    while left:
        done = os.pwrite(file, left, place)
        left, place = left[done:], place + done


def _try(action: Callable[[], None], sharing: Sharing) -> None:
    """Run an action that may find no room on each process; if it fails on one, it counts as failed on all."""
    fault = ""
    try:
        action()
    except OSError as error:
        where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
        fault = f"{error.strerror or error}{where} on {socket.gethostname()}"
    for found in sharing.gather(fault):
        if found:
            raise _NoCopyError(found)
