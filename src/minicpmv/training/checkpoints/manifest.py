"""Writes and verifies a checkpoint's manifest of files, sizes and digests: written last, verified before reading.

A size reveals a truncated file, a digest an altered one. sha256 takes less time than writing (``docs/training.md`` has
the numbers), and ``sha256sum`` can repeat it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["MANIFEST", "find_fault", "num_bytes", "read_manifest", "seal", "sync"]

MANIFEST = "checkpoint.json"
"""Lists a checkpoint's files with sizes and sha256; written last."""

_OWN_DIGEST = "sha256_of_this"
"""Key of the manifest's own digest: a changed word in the manifest is as bad as one in a file."""
_CHUNK = 4 * 2**20
_THREADS = min(8, os.cpu_count() or 1)
_T = TypeVar("_T")


def seal(
    directory: Path, *, step: int, world_size: int, engine: str = "", fingerprint: Mapping[str, Any] | None = None
) -> None:
    """Write the manifest of a finished checkpoint, and sync everything to disk.

    Args:
        directory: The checkpoint, with all of its files.
        step: Optimizer steps done.
        world_size: Number of processes that wrote it.
        engine: Engine that shards weights and optimizer, from ``distributed.engine.name_engine``.
        fingerprint: Settings that determine the run's numbers, from ``fingerprint.take_fingerprint``.

    Raises:
        OSError: The disk is full, or fails.
    """
    paths = _files(directory)
    names = [path.relative_to(directory).as_posix() for path in paths]
    digests = dict(zip(names, _each(_digest_and_sync, paths), strict=True))
    content: dict[str, Any] = {
        "step": step,
        "world_size": world_size,
        "engine": engine,
        "fingerprint": fingerprint or {},
        "files": {name: path.stat().st_size for name, path in zip(names, paths, strict=True)},
        "sha256": digests,
    }
    content[_OWN_DIGEST] = _digest_of(content)
    (directory / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sync(directory / MANIFEST)
    for folder, _, _ in os.walk(directory):
        sync(Path(folder))


def find_fault(checkpoint: Path, *, check_content: bool = False) -> str | None:
    """Describe what is wrong with a checkpoint; None if every listed file exists in its full size.

    Args:
        checkpoint: A directory.
        check_content: Whether the files are also read and compared with their digests.
    """
    odd, there = _look_through(checkpoint)
    if odd is not None:
        return odd
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return f"{MANIFEST} is missing or incomplete"
    for name, size in manifest["files"].items():
        path = checkpoint / name
        if name not in there:
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
    digests: dict[str, str] = manifest["sha256"] if check_content else {}
    try:
        found = _each(_digest, [checkpoint / name for name in digests])
    except OSError as error:
        return f"{Path(error.filename or '').name} cannot be read: {error.strerror}"
    for name, digest in zip(digests, found, strict=True):
        if digest != digests[name]:
            return f"{name} was changed after writing: its sha256 is {digest[:12]}… instead of {digests[name][:12]}…"
    return None


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """Read a checkpoint's manifest; None if there is none, or one that :func:`seal` did not write."""
    path = checkpoint / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # reading a pipe would block
            return None
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or manifest.pop(_OWN_DIGEST, None) != _digest_of(manifest):
        return None
    return manifest if _is_a_list(manifest) else None


def _is_a_list(manifest: Mapping[str, Any]) -> bool:
    """Return whether everything has the type that :func:`seal` writes, and each file a digest."""
    types = {"step": int, "world_size": int, "engine": str, "fingerprint": dict, "files": dict, "sha256": dict}
    if manifest.keys() != types.keys() or not all(isinstance(manifest[name], types[name]) for name in types):
        return False
    files, digests = manifest["files"], manifest["sha256"]
    are_sizes = all(isinstance(size, int) for size in files.values())
    return are_sizes and files.keys() == digests.keys() and all(isinstance(digest, str) for digest in digests.values())


def _look_through(checkpoint: Path) -> tuple[str | None, set[str]]:
    """Find an entry that a run does not write, such as a link or a pipe, and list the names of the files."""
    names: set[str] = set()
    for folder, folders, files in os.walk(checkpoint):
        for entry in sorted([*folders, *files]):
            path = Path(folder, entry)
            name, mode = path.relative_to(checkpoint).as_posix(), path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                return f"{name} is {kind}, which a run does not write", set()
            if stat.S_ISREG(mode):
                names.add(name)
    return None, names


def num_bytes(directory: Path) -> int:
    """Count the bytes of all files below a directory."""
    return sum(path.stat().st_size for path in _files(directory))


def sync(path: Path) -> None:
    """Sync a file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _each(function: Callable[[Path], _T], paths: Iterable[Path]) -> list[_T]:
    # Threads: hashing and syncing both release the GIL, so one file is hashed while another is synced.
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(function, paths))


def _digest_of(content: Mapping[str, Any]) -> str:
    """Digest the content of a manifest, independent of its formatting."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def _digest_and_sync(path: Path) -> str:
    digest = _digest(path)
    sync(path)
    return digest
