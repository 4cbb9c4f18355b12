"""Stores features of images in a folder on disk, which any number of processes and runs read and write at once.

A file's name is the digest of all that its content depends on, so a file is either right or not there. Files are
written aside and renamed. They carry a digest of key, type, shape and content: a file that was copied under another's
name, changed, or cut off by a power failure, which may leave it its full length, counts as missing. What was not read
for longest goes first, but never what this run has used: an epoch reads each image once, so what was used long ago is
just what comes next. When only that is left, no more is stored.

Nothing is mapped into memory: a mapping would kill the process if the file is truncated.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from minicpmv.files.plain_files import read_plain

__all__ = ["FeatureStore"]

_SUFFIX = ".safetensors"
_UNFINISHED = ".part"
_STALE_SECONDS = 3600
"""Seconds after which an unfinished file must belong to a killed process."""
_SHARE_AT_ONCE = 64
"""A process writes this part of the bound, then looks what others have written."""


@dataclass
class FeatureStore:
    """One folder."""

    directory: Path
    max_bytes: int
    """Of all files together. Each process that writes may pass it by a 64th."""
    started: float = field(default_factory=time.time)
    """What was used since then, in seconds of ``time.time``, stays."""
    _allowance: int = 0
    """Bytes that may be written before looking again."""

    def read(self, key: str, num_rows: int) -> Tensor | None:
        """Read one image's features; None if they are not there, or not whole.

        Args:
            key: From ``known_features``.
            num_rows: Length of the first axis.

        Returns:
            The features, in the shape in which they were written.
        """
        path = self._path(key)
        try:
            content = read_plain(path)
        except FileNotFoundError:
            return None
        except OSError:
            content = b""
        features = _unpack(content, key)
        with suppress(OSError):  # others may be faster, or the folder read-only
            if features is None or len(features) != num_rows:
                path.unlink()
                return None
            os.utime(path, (now := time.time(), now))  # the system's own stamps, and a server's, are of other clocks
        return None if features is None or len(features) != num_rows else features

    def write(self, key: str, features: Tensor) -> bool:
        """Store one image's features, of any shape and on the CPU, unless another process has done so.

        Returns:
            Whether there was room.

        Raises:
            OSError: The disk is full, or fails. Nothing half-written is left.
        """
        path = self._path(key)
        if path.exists():
            return True
        content = save({"features": features, "digest": _digest(key, features)})
        if len(content) > self._allowance:
            self._allowance = self._make_room(len(content))
        if len(content) > self._allowance:
            return False
        aside = path.with_name(f".{key}.{os.getpid()}-{threading.get_ident()}{_UNFINISHED}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)  # of a killed process with the same number
            with aside.open("xb") as file:  # follows no link
                file.write(content)
            os.utime(aside, (now := time.time(), now))
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        self._allowance -= len(content)
        return True

    def num_bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(size for _, size, _ in self._files())

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}{_SUFFIX}"

    def _make_room(self, needed: int) -> int:
        """Remove what was not used for longest until the bytes fit; return how many may be written now."""
        files = sorted(self._files())
        room = self.max_bytes - sum(size for _, size, _ in files)
        share = max(needed, self.max_bytes // _SHARE_AT_ONCE)
        for used, size, path in files:
            if room >= share or used >= self.started:
                break
            path.unlink(missing_ok=True)
            room += size
        return min(room, share)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of the last use, size and path of each; removes what killed processes have left."""
        found = []
        for folder in self.directory.glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                with suppress(FileNotFoundError):  # another process removes files, too
                    status = path.stat()
                    if path.suffix == _SUFFIX:
                        found.append((status.st_mtime, status.st_size, path))
                    elif path.suffix == _UNFINISHED and status.st_mtime < time.time() - _STALE_SECONDS:
                        path.unlink()
        return found


def _digest(key: str, features: Tensor) -> Tensor:
    """Return a digest of key and features, 32 bytes."""
    digest = hashlib.sha256(f"{key} {features.dtype} {list(features.shape)} ".encode())
    digest.update(features.reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _unpack(content: bytes, key: str) -> Tensor | None:
    """Read a file; None unless it is complete, unchanged and written for that key."""
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError):  # the last two: a data type that this torch does not know
        return None
    if tensors.keys() != {"features", "digest"}:
        return None
    features, digest = tensors["features"], tensors["digest"]
    if not features.is_floating_point() or features.dim() == 0 or digest.dtype is not torch.uint8:
        return None
    return features if torch.equal(digest, _digest(key, features)) else None
