"""Stores what a reference thinks of answers: the log-probability of each token, in a folder that any runs share.

An answer is named by the digest of all that its values depend on: the reference's weights, precision and code, the
tokens before and in it, its labels, and the content and slices of its pictures. So a value is right or not there, and
nothing is ever replaced. A process writes many answers into one file, aside, and renames it; a file carries a digest of
itself, and one that was cut off or changed counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from minicpmv.data.samples.compared import Tokens
from minicpmv.files.plain_files import read_plain
from minicpmv.models.networks.loss import IGNORED

__all__ = ["AnswerStore", "KnownScores"]

_SUFFIX = ".safetensors"
_KEY = 32
"""Bytes of a digest."""


@dataclass
class AnswerStore:
    """One folder, as it was when it was last opened; all its values are in memory."""

    directory: Path
    _keys: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, _KEY), np.uint8))
    """(answers, 32), sorted by ``_heads``."""
    _heads: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """The first 8 bytes of each key."""
    _bounds: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """Begin and end of each key's values, in values."""
    _values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self._keys)

    def open(self) -> None:
        """Read what all processes have written."""
        keys, bounds, values, start = [], [], [], 0
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            found = _read(path)
            if found is None:
                continue
            ends = np.cumsum(found[1])
            keys.append(found[0])
            bounds.append(start + np.stack([ends - found[1], ends], axis=1))
            values.append(found[2])
            start += len(found[2])
        if not keys:
            return
        joined = np.concatenate(keys)
        heads = _heads_of(joined)
        order = np.argsort(heads, kind="stable")
        self._keys, self._heads, self._bounds = joined[order], heads[order], np.concatenate(bounds)[order]
        self._values = np.concatenate(values)

    def find(self, key: bytes, number: int) -> NDArray[np.float32] | None:
        """Return the values of an answer, (number,); None if they are not there."""
        wanted = np.frombuffer(key, np.uint8)
        head = _heads_of(wanted[None])[0]
        for place in range(*np.searchsorted(self._heads, [head, head + np.uint64(1)]).tolist()):
            if (self._keys[place] == wanted).all():
                begin, end = self._bounds[place]
                return self._values[begin:end] if end - begin == number else None
        return None

    def write(self, keys: Sequence[bytes], values: Sequence[Tensor]) -> None:
        """Add answers as one file; they are found after the next :meth:`open`.

        Args:
            keys: From ``KnownScores.keys``.
            values: Of each its log-probabilities, float32 on the CPU.

        Raises:
            OSError: The disk is full, or fails. Nothing half-written is left.
        """
        if not keys:
            return
        tensors = {
            "keys": torch.tensor([list(key) for key in keys], dtype=torch.uint8),
            "numbers": torch.tensor([len(each) for each in values], dtype=torch.int64),
            "values": torch.cat([each.float() for each in values]),
        }
        digest = _digest(tensors)
        content = save({**tensors, "digest": torch.tensor(list(digest), dtype=torch.uint8)})
        path = self.directory / f"{digest.hex()}{_SUFFIX}"
        aside = path.with_name(f".{path.stem}.{os.getpid()}.part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with aside.open("xb") as file:
                file.write(content)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@dataclass(kw_only=True)
class KnownScores:
    """Finds values of a record's answers."""

    store: AnswerStore
    made_by: str
    """Digest of everything about the reference that values depend on."""
    is_naming: bool = False
    """Whether items say what their answers are called, because their values are to be computed; else they have them."""

    def keys(self, tokens: Tokens, contents: Sequence[bytes], max_slice_nums: int) -> list[bytes]:
        """Name the answers of a record.

        Args:
            tokens: The record's.
            contents: Bytes of its image files.
            max_slice_nums: Most tiles per image, which with the tokens says how each is cut.
        """
        pictures = [hashlib.sha256(content).hexdigest() for content in contents]
        rows = None if tokens.position_rows is None else tokens.position_rows.tolist()
        found, start = [], 0
        for length, first, number, _ in tokens.segments or ():
            seen = [*range(first, first + number), *range(start, start + length)]
            described = [self.made_by, pictures, max_slice_nums if pictures else 0]
            described += [
                [each[place] for place in seen] for each in (tokens.input_ids, tokens.labels, tokens.image_mask)
            ]
            described += [None if rows is None else [[row[place] for place in seen] for row in rows]]
            found.append(hashlib.sha256(json.dumps(described).encode()).digest())
            start += length
        return found

    def describe(self, tokens: Tokens, contents: Sequence[bytes], max_slice_nums: int) -> dict[str, Tensor]:
        """Return what an item holds of its answers: their values, or the keys to store these under.

        Raises:
            KeyError: A value is not there.
        """
        keys = self.keys(tokens, contents, max_slice_nums)
        if self.is_naming:
            return {"answer_keys": torch.tensor([list(key) for key in keys], dtype=torch.uint8)}
        found = self._find(tokens, keys)
        if found is None:
            raise KeyError(keys[0])
        return {"reference_log_probs": torch.from_numpy(np.concatenate(found))}

    def has(self, tokens: Tokens, contents: Sequence[bytes], max_slice_nums: int) -> bool:
        """Return whether the values of all answers are there."""
        return self._find(tokens, self.keys(tokens, contents, max_slice_nums)) is not None

    def _find(self, tokens: Tokens, keys: Sequence[bytes]) -> list[NDArray[np.float32]] | None:
        numbers = _count_labels(tokens)
        found = [self.store.find(key, number) for key, number in zip(keys, numbers, strict=True)]
        known = [values for values in found if values is not None]
        return known if len(known) == len(found) else None


def _count_labels(tokens: Tokens) -> list[int]:
    """Count the tokens of each answer whose log-probability is asked for: those with a label that weighs something."""
    weights = tokens.label_weights or [1.0] * len(tokens.labels)
    counted = [label != IGNORED and weight != 0 for label, weight in zip(tokens.labels, weights, strict=True)]
    numbers, start = [], 0
    for length, *_ in tokens.segments or ():
        numbers.append(sum(counted[start : start + length]))
        start += length
    return numbers


def _heads_of(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(">u8").astype(np.uint64).reshape(-1)


def _digest(tensors: dict[str, Tensor]) -> bytes:
    digest = hashlib.sha256()
    for name in ("keys", "numbers", "values"):
        digest.update(f"{name} {list(tensors[name].shape)} ".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]] | None:
    """Read one file; None unless it is complete and unchanged."""
    with suppress(OSError, SafetensorError, ValueError, KeyError):
        tensors = load(read_plain(path))
        types = {"keys": torch.uint8, "numbers": torch.int64, "values": torch.float32, "digest": torch.uint8}
        if {name: each.dtype for name, each in tensors.items()} != types:
            return None
        if bytes(tensors.pop("digest").tolist()) != _digest(tensors):
            return None
        return tensors["keys"].numpy(), tensors["numbers"].numpy(), tensors["values"].numpy()
    return None
