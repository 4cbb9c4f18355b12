"""A disk that has no room: said once, with where and how much, and nothing half-written stays.

Looks before writing as far as the size is known, and names the fault where it comes up all the same: other programs
write, too, and quotas show themselves only then.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from minicpmv.errors import MiniCPMVError
from minicpmv.files.atomic_files import give_ordinary_permissions
from minicpmv.terminal.streams import explain_os_error

__all__ = ["DiskError", "check_space", "explain_system", "free_bytes", "writing"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch and safetensors make of an error number: torch says only that its writer failed.
_WRITERS = ("os error", "PytorchStreamWriter", "inline_container", "No space left", "Disk quota", "file write failed")

_AFTERWARDS = (
    "earlier checkpoints are as they were\n"
    "  fix: make room there, or lower --save_total_limit, then go on with --resume_from_checkpoint true"
)


class DiskError(MiniCPMVError):
    """Something could not be written."""

    is_of_one_process = True


def check_space(directory: Path, needed: int, *, afterwards: str = _AFTERWARDS) -> None:
    """Look for room before writing.

    Args:
        directory: Where, even if it does not exist yet.
        needed: Bytes.
        afterwards: Ends the message: what is as it was, and the fix.

    Raises:
        DiskError: There is less.
    """
    free = free_bytes(directory)
    if free < needed:
        raise DiskError(_message(directory, "too little room", free=free, needed=needed, afterwards=afterwards))


@contextmanager
def writing(staged: Path, *, needed: int | None, afterwards: str = _AFTERWARDS) -> Iterator[None]:
    """Collect files in a folder that disappears again if they cannot be written; whole, they get ordinary permissions.

    Args:
        staged: The folder; the one above it goes as well if nothing else is in it.
        needed: Bytes, for the message; None if that is not known.
        afterwards: Ends the message: what is as it was, and the fix.

    Raises:
        DiskError: A file could not be written.
    """
    try:
        yield
        give_ordinary_permissions(staged)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_writing(error):
            raise
        free = free_bytes(staged)
        shutil.rmtree(staged, ignore_errors=True)
        if staged.parent.is_dir() and not any(staged.parent.iterdir()):
            staged.parent.rmdir()
        reason = _reason(error)
        message = _message(staged.parent.parent, reason, free=free, needed=needed, afterwards=afterwards)
        raise DiskError(message) from error


def explain_system(error: OSError) -> str | None:
    """Word what the system refused where nobody expected it; None if it is neither a file's nor the output's fault."""
    explained = explain_os_error(error)
    if error.errno not in _FULL or (explained or "").startswith("standard output"):
        return explained
    place = Path(error.filename or ".").parent
    return _message(place, _reason(error), free=free_bytes(place), needed=None)


def _is_writing(error: BaseException) -> bool:
    return isinstance(error, OSError) or any(word in str(error) for word in _WRITERS)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    for known in ("No space left on device", "Disk quota exceeded", "File too large"):
        if known in text:
            return known
    return "a write that ended half-way"


def free_bytes(directory: Path) -> int:
    """Say how much can be written to a directory, even if it does not exist yet."""
    existing = next(path for path in (directory, *directory.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _message(directory: Path, reason: str, *, free: int, needed: int | None, afterwards: str = _AFTERWARDS) -> str:
    wanted = f"{needed:,} bytes" if needed is not None else "room"
    if reason == os.strerror(errno.EFBIG):  # the disk may have all the room in the world
        afterwards = afterwards.replace("make room there", "raise the limit of a file's size (ulimit -f)")
    return (
        f"{directory}: found {reason}, {free:,} bytes free there, expected {wanted} for what is saved next; "
        f"{afterwards}"
    )
