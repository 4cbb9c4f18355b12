"""A worker process of torch's ``DataLoader`` that was killed, said in words instead of torch's traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from minicpmv.errors import MiniCPMVError

__all__ = ["WorkerError", "naming_dead_workers"]

_DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: (?P<signal>\w[\w ]*)|exited)")


class WorkerError(MiniCPMVError):
    """A worker process has ended before its work."""

    is_of_one_process = True


@contextmanager
def naming_dead_workers(fix: str) -> Iterator[None]:
    """Say in words that a worker was killed.

    Args:
        fix: Ends the message: how there are fewer of them, and how to go on.

    Raises:
        WorkerError: One was; torch says so wherever the process happens to be.
    """
    try:
        yield
    except RuntimeError as error:
        found = _find(error)
        if found is None:
            raise
        cause = "no room in /dev/shm" if "Bus" in (found["signal"] or "") else "the kernel, for want of memory"
        how = f"killed by a signal ({found['signal'].strip()})" if found["signal"] else "ended"
        raise WorkerError(
            f"data-loader worker: found that it was {how}, most likely by {cause}, expected it to live as long as the "
            f"records last\n  fix: {fix}"
        ) from error


def _find(error: BaseException | None) -> re.Match[str] | None:
    """Look for torch's words in an error and in those that it came from."""
    while error is not None:
        found = _DEAD.search(str(error)) if isinstance(error, RuntimeError) else None
        if found is not None:
            return found
        error = error.__cause__ or error.__context__
    return None
