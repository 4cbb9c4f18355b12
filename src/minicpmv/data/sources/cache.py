"""Caches findings about data on disk, under a name made of everything that they depend on.

The same ingredients lead to the same entry; any change leads to another name. Entries are plain numbers
behind a digest of their name and content. One that is damaged, or lies under another's name, counts as missing, and
nothing that goes wrong here stops anyone.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import time
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import replacing
from minicpmv.files.plain_files import read_plain

__all__ = ["DataCache", "Entry", "describe_software"]

_FORM = 2
"""Of the entries. Raised when what they hold changes its meaning."""
_MOST = 64
"""Most entries, the most recently used ones. A million records take about 10 MB, a hundred thousand images 1 MB."""
_NAME = re.compile(r"(?:checked|lengths|validation)-[0-9a-f]{64}\.kept")
_BEING_WRITTEN = re.compile(rf"\.{_NAME.pattern}\.tmp")
_ABANDONED = 3600
"""Seconds after which a file that is being written has been left behind by a process that was killed."""
_DIGEST_BYTES = hashlib.sha256().digest_size
_CODE = ("__init__.py", "data/**/*.py", "models/**/*.py", "processing/**/*.py", "releases/**/*.py")
"""Of this package: its version, and what reads, judges and counts."""
_PACKAGES = ("av", "json5", "numpy", "pillow", "pyarrow", "sentencepiece", "tokenizers", "transformers")
"""The same of other packages; one that is not installed counts as such."""


class DataCache:
    """A folder of entries, which several processes and runs may use at the same time.

    Args:
        folder: Made when there is something to keep.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.fault: OSError | None = None
        """Why something could not be kept."""

    def entry(self, kind: str, **ingredients: Any) -> Entry:
        """Return the place of what depends on these ingredients, and on the software, and on nothing else.

        Args:
            kind: ``checked`` or ``lengths``.
            ingredients: What JSON can hold.
        """
        key = json.dumps([_FORM, kind, ingredients, describe_software()], sort_keys=True)
        name = f"{kind}-{hashlib.sha256(key.encode()).hexdigest()}.kept"
        assert _NAME.fullmatch(name), f"{kind} would never be removed"
        return Entry(self, self.folder / name)


class Entry:
    """The place of one result, whether there is one or not."""

    def __init__(self, cache: DataCache, path: Path) -> None:
        self._cache = cache
        self._path = path
        self.was_found = False
        """Whether a result was found here and used."""

    def load(self) -> dict[str, NDArray[Any]] | None:
        """Return what was stored, or None if there is nothing whole."""
        try:
            content = read_plain(self._path)
        except OSError:
            return None
        payload = content[_DIGEST_BYTES:]
        if self._digest(payload) != content[:_DIGEST_BYTES]:
            return None
        with suppress(OSError):  # a folder that may only be read
            os.utime(self._path)  # used last, removed last
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            return dict(arrays)

    def store(self, **arrays: Any) -> None:
        """Keep a result, in one step, or note in the cache why not.

        Args:
            arrays: numpy's, of numbers.
        """
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        payload = buffer.getvalue()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path, refused=lambda error: error) as file:
                file.write(self._digest(payload) + payload)
            _clear(self._path.parent)
        except BlockingIOError:  # another process keeps the same
            pass
        except UsageError as error:  # a link, or another user's file, lies there
            self._cache.fault = OSError(errno.EEXIST, str(error).partition("\n")[0])
        except OSError as error:
            self._cache.fault = error

    def _digest(self, payload: bytes) -> bytes:
        return hashlib.sha256(self._path.name.encode() + b"\0" + payload).digest()


def _clear(folder: Path) -> None:
    """Remove entries beyond the number that is kept, and what killed processes were writing."""
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process clears as well
            if _NAME.fullmatch(path.name):
                found.append((path.stat().st_mtime, path))
            elif _BEING_WRITTEN.fullmatch(path.name) and path.stat().st_mtime < time.time() - _ABANDONED:
                path.unlink()
    for _, path in sorted(found, reverse=True)[_MOST:]:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def describe_software() -> dict[str, str | None]:
    """Name everything but data and models that decides how a record is judged and what it costs.

    The package's own code counts by its text: in a checkout it changes without the version.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = None
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(path for pattern in _CODE for path in root.glob(pattern)):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return found | {"code": digest.hexdigest()}
