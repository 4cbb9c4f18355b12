"""Reads the pickles of a checkpoint without running code from them.

The writer of a checkpoint also writes its manifest, so digests protect against accidents and not against attacks. Two
guards do. Within a run, every ``torch.load`` of every library uses torch's restricted unpickler, even where the call
asks for ``weights_only=False``, as DeepSpeed's does: it builds tensors, containers and the few classes listed here, and
calls nothing else. And before an engine sees a checkpoint, each pickle in it is read by the same unpickler, so that a
foreign object is reported together with its file.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
from collections.abc import Container
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minicpmv.releases.table import VERSIONS

__all__ = ["find_foreign_object", "restrict_unpickling"]

_SUFFIXES = (".bin", ".pt", ".pth")
"""Suffixes of the files that torch, transformers, accelerate and DeepSpeed unpickle."""
_TAGS = ("latest", "latest_universal")
"""Files in which DeepSpeed stores the name of the folder to read."""
_ZIP = b"PK\x03\x04"

# The state of numpy's random numbers, in rng_state*.pth.
_OF_NUMPY: tuple[Any, ...] = (
    np.empty(0).__reduce__()[0],  # the private function that numpy's pickles refer to
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
)
# Plain records of numbers in DeepSpeed's optimizer shards; constructing one has no side effect.
_OF_DEEPSPEED = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
# Errors that a damaged or hostile pickle makes the unpickler raise, from any object that it assembles.
_REFUSED = (
    pickle.PickleError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_NAMED = re.compile(r"GLOBAL ([\w.]+)")
"""Pattern of the foreign object's name in torch's message."""


def restrict_unpickling(*, deepspeed: bool) -> None:
    """Make every ``torch.load`` in this process and its children read without running code.

    Args:
        deepspeed: Whether DeepSpeed will read its own checkpoints; importing it takes seconds.
    """
    # torch reads the variable in every call, and it overrides the argument. It changes no result: a file is read as
    # usual, or refused.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch accepts one of the two
    allowed = [*_OF_NUMPY]
    if deepspeed:
        allowed += [getattr(import_module(module), name) for module, name in _OF_DEEPSPEED]
    torch.serialization.add_safe_globals(allowed)


def find_foreign_object(checkpoint: Path) -> str | None:
    """Describe an object in a checkpoint that no run writes and that must not be read; None if there is none.

    Folders that are copied whole from a base are not looked into: nothing here reads them, and the pickles in them are
    the released model's.

    Call :func:`restrict_unpickling` first. Files are mapped, not read, so this takes only as long as unpickling names.

    Args:
        checkpoint: A directory in which ``manifest.find_fault`` has found only regular files and folders.
    """
    unread = {folder for version in VERSIONS.values() for folder in version.network.whole_folders}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        name = path.relative_to(checkpoint).as_posix()
        if name.partition("/")[0] in unread:
            continue
        if path.name in _TAGS and not _names_a_folder(path, unread):
            return f"{name} names something other than a folder of the checkpoint"
        if path.name.endswith(_SUFFIXES) and (refused := _why_refused(path)) is not None:
            return f"{name} {refused}"
    return None


def _names_a_folder(tag: Path, unread: Container[str]) -> bool:
    name = tag.read_bytes()[:256].decode("utf-8", errors="replace").strip()
    is_name = re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None
    return is_name and name not in unread and (tag.parent / name).is_dir()


def _why_refused(path: Path) -> str | None:
    with path.open("rb") as file:
        is_mappable = file.read(len(_ZIP)) == _ZIP
    try:
        # Allowed again here: after reading random states, transformers removes these classes from torch's list.
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_OF_NUMPY]):
            warnings.simplefilter("ignore")  # torch's warnings about a damaged file, which is refused anyway or not
            torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except _REFUSED as error:
        named = _NAMED.search(str(error))
        if named is not None:
            return f"holds {named[1]}, which is neither a tensor nor a number"
        return f"cannot be read as tensors and numbers ({type(error).__name__})"
    return None
