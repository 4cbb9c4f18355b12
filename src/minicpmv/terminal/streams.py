"""Handles a command's standard output and error, which may be closed or full, and words errors of the system.

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
    errno.EIO: "check the disk: it is failing",
    errno.EWOULDBLOCK: "wait for that process, or name another place",
}

_FOUND = {errno.EISDIR: "a folder", errno.ENOTDIR: "a file where a folder is needed"}
"""Errors whose own words do not fit into our sentence."""


def refuse_closed_output() -> None:
    """Make sure that there is a standard output; without one, the next opened file would take its descriptor.

    Raises:
        UsageError: It was closed before the command began (``>&-``).
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] # how Python shows a closed one
        with suppress(OSError):
            os.open(os.devnull, os.O_WRONLY)  # takes the free descriptor
        raise UsageError(
            "standard output: found it closed, expected it open\n  fix: redirect it, to /dev/null to discard it"
        )


def complain(message: str, *, known: Iterable[str] = ()) -> None:
    """Print a message without a traceback, if standard error is open; the exit code stays the same.

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
    """Return the fix for an error of the system; ``otherwise`` where its error number alone does not give one."""
    return _FIXES.get(error.errno or 0, otherwise)


def explain_os_error(error: OSError) -> str | None:
    """Word an error of the system; return None if neither a file nor standard output is at fault."""
    if error.filename is None and error.errno in _FIXES and _is_output_full():
        return _refused_output(error)
    if error.errno is None or (error.filename is None and error.errno not in _FIXES):
        return None
    name = error.filename if error.filename2 is None else error.filename2  # the file to be replaced
    place = "a file" if name is None else repr(os.fsdecode(name))
    found = _FOUND.get(error.errno, error.strerror)
    return f"{place}: found {found}, expected that it can be read or written\n  fix: {advise(error)}"


def finish_output(code: int) -> int:
    """Flush the output; return the exit code, or another one where that fails."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] # closed, which has been reported
        return code
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, such as `| head`
        silence_output()
        return EXIT_NOT_READ
    except OSError as error:
        complain(f"error: {_refused_output(error)}")
        return EXIT_NOT_WRITTEN
    return code


def silence_output() -> None:
    """Discard what is still to be printed, or Python complains about it at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused_output(error: OSError) -> str:
    silence_output()
    return (
        f"standard output: found {error.strerror}, expected room for what is printed\n"
        "  fix: redirect it to a place that can be written"
    )


def _is_output_full() -> bool:
    """Return whether standard output cannot be written, by trying an empty line."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False
