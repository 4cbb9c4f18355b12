"""Digests the weights of a model directory: which values stand under which names, however they are divided into files.

Reading them takes as long as loading them, so the result is kept under the state of the files, and asked for again it
costs a look at each of them. Entries hold 200 bytes and are never removed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.modeling_utils import load_state_dict

from minicpmv.errors import CheckpointError
from minicpmv.models.checkpoints.stored_tensors import StoredTensor, list_stored
from minicpmv.models.checkpoints.weight_files import DTYPE_NAMES, find_weight_files, read_shapes

__all__ = ["KEPT", "WeightDigests", "digest_all", "digest_weights"]

KEPT = Path("~/.cache/minicpmv/weights")
"""Where digests are kept unless another folder is named."""

_FORM = 1
"""Of the entries. Raised when a digest changes its meaning."""
_THREADS = min(8, os.cpu_count() or 1)


class WeightDigests(NamedTuple):
    """What tells one model's weights from another's, in hexadecimal."""

    weights: str
    """sha256 of every tensor's name, precision, shape and sha256, in the order of the names."""
    shapes: str
    """sha256 of the names and shapes alone: equal where one's weights have their places in the other."""


class _Tensor(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Callable[[], str]


def digest_weights(folder: Path, *, kept: Path | None = KEPT) -> WeightDigests:
    """Return the digests of a model directory's weights.

    Args:
        folder: The directory.
        kept: Where results are looked for and kept; None reads all weights.

    Raises:
        CheckpointError: There are no weights, or a file is not what its name says.
    """
    files = find_weight_files(folder)
    read_shapes(files)  # says which file is at fault, if one is
    state = _describe(files)
    place = None if kept is None else _place(kept, state)
    known = None if place is None else _recall(place)
    if known is not None:
        return known
    tensors = sorted(itertools.chain.from_iterable(map(_tensors_in, files)))
    digests = digest_all(tensors)
    whole, shapes = hashlib.sha256(), hashlib.sha256()
    for tensor, digest in zip(tensors, digests, strict=True):
        whole.update(json.dumps([tensor.name, tensor.dtype, tensor.shape, digest]).encode() + b"\n")
        shapes.update(json.dumps([tensor.name, tensor.shape]).encode() + b"\n")
    found = WeightDigests(whole.hexdigest(), shapes.hexdigest())
    if _describe(files) != state:
        raise CheckpointError(
            f"{folder}: found weights that changed while they were read, expected files that stay\n"
            "  fix: wait until they are copied or written, and start again"
        )
    if place is not None:
        _keep(place, found)
    return found


def _describe(files: Sequence[Path]) -> str:
    """Describe the state of files such that no other content has the same."""
    states = [(str(file.resolve()), os.stat(file)) for file in files]
    return json.dumps([[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in states])


def _tensors_in(file: Path) -> Iterator[_Tensor]:
    if file.suffix != ".safetensors":
        for name, tensor in load_state_dict(file, map_location="cpu").items():  # maps the file
            dtype, shape = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)
            yield _Tensor(name, dtype, shape, lambda tensor=tensor: _digest_values(tensor))
        return
    for stored in list_stored(file):
        yield _Tensor(stored.name, stored.dtype, stored.shape, stored.digest)


def _digest_values(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def digest_all(tensors: Sequence[_Tensor | StoredTensor]) -> list[str]:
    """Digest tensors in threads, which let go of the interpreter and do not keep a process that ends."""
    digests, faults = [""] * len(tensors), list[Exception]()
    largest_first = iter(sorted(range(len(tensors)), key=lambda index: -torch.Size(tensors[index].shape).numel()))
    taking = threading.Lock()

    def work() -> None:
        while not faults:
            with taking:
                index = next(largest_first, None)
            if index is None:
                return
            try:
                digests[index] = tensors[index].digest()
            except (CheckpointError, OSError, RuntimeError) as fault:
                faults.append(fault)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return digests


def _place(kept: Path, state: str) -> Path | None:
    try:
        folder = kept.expanduser()
    except RuntimeError:  # this user has no home
        return None
    return folder / f"{hashlib.sha256(f'{_FORM} {state}'.encode()).hexdigest()}.digests"


def _recall(place: Path) -> WeightDigests | None:
    try:
        weights, shapes, check = place.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return WeightDigests(weights, shapes) if _check(weights, shapes) == check else None


def _keep(place: Path, found: WeightDigests) -> None:
    with suppress(OSError):  # the next start reads the weights again
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}.tmp")  # one name: the next start replaces what a killed one left
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="ascii") as file:  # follows no link
            file.write(f"{found.weights} {found.shapes} {_check(*found)}\n")
        os.replace(aside, place)


def _check(weights: str, shapes: str) -> str:
    return hashlib.sha256(f"{weights} {shapes}".encode()).hexdigest()
