"""Standard output and standard error of a command, which may be closed or full, and what the system refuses in words.

Nothing printed here shows a secret.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from minicpmv.errors import UsageError
from minicpmv.terminal.escapes import escape
from minicpmv.terminal.redaction import clean_text

__all__ = [
    "EXIT_NOT_READ",
    "advise",
    "complain",
    "explain_os_error",
    "finish_output",
    "refuse_closed_output",
    "silence_output",
]

EXIT_NOT_WRITTEN, EXIT_NOT_READ = 2, 141

_FIXES = {
    errno.EACCES: "name a place that you may use, or have its permissions changed",
    errno.EPERM: "name a place that you may use, or have its permissions changed",
    errno.EROFS: "name a place on a disk that can be written",
    errno.ENOSPC: "make room there, or name a place on another disk",
    errno.EDQUOT: "make room there, or name a place on another disk",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or name a place on another disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has no more files to open",
    errno.EISDIR: "rename or remove it, or name another place",
    errno.EIO: "look at the disk: it fails",
    errno.EWOULDBLOCK: "wait for that process, or name another place",
}

_FOUND = {errno.EISDIR: "a folder", errno.ENOTDIR: "a file where a folder is needed"}
"""What the system's own words do not make a sentence of."""


def refuse_closed_output() -> None:
    """Make sure that there is a standard output; without one the next file opened would take its number.

    Raises:
        UsageError: It was closed before the command began (``>&-``).
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] # so Python says it
        with suppress(OSError):
            os.open(os.devnull, os.O_WRONLY)  # takes the free number
        raise UsageError(
            "standard output: found it closed, expected a place for what is printed\n"
            "  fix: redirect it, to /dev/null if nobody shall read it"
        )


def complain(message: str, *, known: Iterable[str] = ()) -> None:
    """Print a message that needs no traceback, if anybody can read it; the exit code remains.

    Args:
        message: Complete in itself.
        known: Secrets of the command line.
    """
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] # closed
        return
    shown = escape(clean_text(message, known=known))
    with suppress(OSError):  # the log may be on the very disk that is full
        print(shown, file=sys.stderr, flush=True)


def advise(error: OSError, *, otherwise: str = "correct the path") -> str:
    """Say what helps against what the system refused; ``otherwise`` where its reason alone does not tell."""
    return _FIXES.get(error.errno or 0, otherwise)


def explain_os_error(error: OSError) -> str | None:
    """Word what the system refused; None if that is neither a file's fault nor standard output's."""
    if error.filename is None and error.errno in _FIXES and _is_output_full():
        return _refused_output(error)
    if error.errno is None or (error.filename is None and error.errno not in _FIXES):
        return None
    name = error.filename if error.filename2 is None else error.filename2  # what was to be replaced
    place = "a file" if name is None else repr(os.fsdecode(name))
    found = _FOUND.get(error.errno, error.strerror)
    return f"{place}: found {found}, expected that it can be read or written\n  fix: {advise(error)}"


def finish_output(code: int) -> int:
    """Write what is still to be printed; return the exit code, another one where that fails."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] # closed, which has been said
        return code
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, such as `| head`
        silence_output()
        return EXIT_NOT_READ
    except OSError as error:
        complain(f"error: {_refused_output(error)}")
        return EXIT_NOT_WRITTEN
    return code


def silence_output() -> None:
    """Send to nowhere what is still to be printed, or Python complains of it while it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused_output(error: OSError) -> str:
    silence_output()
    return (
        f"standard output: found {error.strerror}, expected room for what is printed\n"
        "  fix: redirect it to a place that can be written"
    )


def _is_output_full() -> bool:
    """Whether standard output is what cannot be written: then an empty line cannot be, either."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False
