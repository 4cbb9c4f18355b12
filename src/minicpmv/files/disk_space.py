"""Reports a full disk once, with place and size, and leaves nothing half-written behind.

It checks before writing where the size is known, and names the fault where it occurs all the same: other programs
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
# How torch and safetensors report an error number: torch says only that its writer failed.
_WRITERS = ("os error", "PytorchStreamWriter", "inline_container", "No space left", "Disk quota", "file write failed")

_RESUMABLE = (
    "existing checkpoints are intact\n"
    "  fix: make room there, or lower --save_total_limit, then resume with --resume_from_checkpoint true"
)
_NOTHING_SAVED = "what was there is intact\n  fix: make room there, then start again"


class DiskError(MiniCPMVError):
    """Something could not be written."""

    is_of_one_process = True


def check_space(directory: Path, needed: int, *, afterwards: str | None = None) -> None:
    """Check for free space before writing.

    Args:
        directory: Where to write; it need not exist yet.
        needed: Bytes.
        afterwards: End of the message: what is intact, and the fix; by default about checkpoints, if there are any.

    Raises:
        DiskError: There is less free space.
    """
    free = free_bytes(directory)
    if free < needed:
        raise DiskError(_message(directory, "too little room", free=free, needed=needed, afterwards=afterwards))


@contextmanager
def writing(staged: Path, *, needed: int | None, afterwards: str | None = None) -> Iterator[None]:
    """Collect files in a folder that is removed if they cannot be written; complete files get ordinary permissions.

    Args:
        staged: The folder; its parent is removed as well if it is then empty.
        needed: Bytes, for the message; None if that is not known.
        afterwards: End of the message: what is intact, and the fix; by default about checkpoints, if there are any.

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
    """Word an unexpected error of the system; return None if neither a file nor the output is at fault."""
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
    """Return how many bytes can be written to a directory, even if it does not exist yet."""
    existing = next(path for path in (directory, *directory.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _message(directory: Path, reason: str, *, free: int, needed: int | None, afterwards: str | None = None) -> str:
    if afterwards is None:
        afterwards = _RESUMABLE if any(directory.glob("checkpoint-*")) else _NOTHING_SAVED
    wanted = f"{needed:,} bytes" if needed is not None else "room"
    if reason == os.strerror(errno.EFBIG):  # a limit on file size: the disk may have plenty of room
        afterwards = afterwards.replace("make room there", "raise the limit of a file's size (ulimit -f)")
    return (
        f"{directory}: found {reason}, {free:,} bytes free there, expected {wanted} for what is saved next; "
        f"{afterwards}"
    )
