"""Finds cached features of images that a frozen tower has seen before, in this run or another, to use without pixels.

An image is identified by the digest of its file's bytes, so an edited file is another image, whatever its name; a frame
of a film by that of the film's files and its time. A key also covers how the image is cut and the weights of the tower.
The images of a record are all cached, or all computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from minicpmv.data.samples.feature_store import FeatureStore
from minicpmv.processing.encoding import WrittenConversation
from minicpmv.processing.pictures.patches import DAMAGE
from minicpmv.processing.pictures.slicing import SlicePlan

__all__ = ["CachedSlices", "FeatureKind", "KnownFeatures", "picture_size"]

FeatureKind = Literal["tower_features", "image_features"]


@dataclass(frozen=True, slots=True)
class CachedSlices:
    """One entry of the cache: slices that are next to each other in the text."""

    key: str
    sizes: Sequence[tuple[int, int]]
    """(rows, columns) of each slice in patches."""


@dataclass(frozen=True, kw_only=True)
class KnownFeatures:
    """Finds the cached features of a record's images."""

    store: FeatureStore
    kind: FeatureKind
    """``tower_features``: what a resampler that learns reads, a row for each feature. ``image_features``: what a frozen
    resampler made of them, one block for each slice."""
    made_by: str
    """Digest of everything except the image that features depend on: weights, sizes, precision."""
    attends_padding: bool
    """Whether features depend on the longest slice of their record, as they do for 2.5."""
    patches_each: int = 1
    """Patches that the tower makes one feature of: 4 where it merges windows, as 4.6 does with 16 patches a token."""

    def count_rows(self, size: tuple[int, int]) -> int:
        """Count the tower's features of a slice from its rows and columns in patches."""
        return size[0] * size[1] // self.patches_each

    def name(self, contents: Sequence[str], plans: Sequence[SlicePlan]) -> list[str]:
        """Name the features of a record's images.

        Args:
            contents: Digest of each image file; of a frame, that of its film's files and the time.
            plans: Slice plan of each image.
        """
        longest = max(rows * columns for plan in plans for rows, columns in plan.tgt_sizes)
        keys = []
        for content, plan in zip(contents, plans, strict=True):
            described = [self.kind, self.made_by, content, asdict(plan)]
            described += [longest] if self.attends_padding else []
            keys.append(hashlib.sha256(json.dumps(described).encode()).hexdigest())
        return keys

    def entries(self, names: Sequence[str], written: WrittenConversation, *, by_slice: bool) -> list[CachedSlices]:
        """Name the cached features of a record, in the order of its text.

        Args:
            names: Contents of its images and then of its frames, as :meth:`name` takes them.
            written: The record's conversation.
            by_slice: Whether each slice is an entry, as in a record with films, since the slices of frames in one
                block lie between each other. Otherwise each picture is one.
        """
        keys = self.name(names, written.plans)
        if not by_slice:
            return [CachedSlices(key, plan.tgt_sizes) for key, plan in zip(keys, written.plans, strict=True)]
        slices = [
            [CachedSlices(_of_slice(key, number), [size]) for number, size in enumerate(plan.tgt_sizes)]
            for key, plan in zip(keys, written.plans, strict=True)
        ]
        return written.layout.in_order(slices)

    def find(self, entries: Sequence[CachedSlices]) -> Tensor | None:
        """Read the features of a record's images, end to end; None unless all are there.

        Returns:
            (rows, E), the tower's features of each slice, or (S, Q, D), the tokens of each slice, as ``kind`` says.
        """
        found = []
        for entry in entries:
            by_slice = self.kind == "image_features"
            num_rows = len(entry.sizes) if by_slice else sum(map(self.count_rows, entry.sizes))
            features = self.store.read(entry.key, num_rows)
            if features is None:
                return None
            found.append(features)
        return torch.cat(found)

    def describe_known(self, features: Tensor, sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Say what an item holds in place of pixels: the features, of the shape that :meth:`find` returns."""
        return {
            self.kind: features,
            "tgt_sizes": torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
            "known_slices": torch.ones(len(sizes), dtype=torch.bool),
        }

    def describe_unknown(self, entries: Sequence[CachedSlices]) -> dict[str, Tensor]:
        """Return the tensors of an item in addition to pixels, with which the computed features can be stored."""
        return {
            "known_slices": torch.zeros(sum(len(entry.sizes) for entry in entries), dtype=torch.bool),
            "picture_keys": torch.tensor([list(bytes.fromhex(entry.key)) for entry in entries], dtype=torch.uint8),
            "slices_per_picture": torch.tensor([len(entry.sizes) for entry in entries]),
        }


def _of_slice(key: str, number: int) -> str:
    return hashlib.sha256(f"{key} {number}".encode()).hexdigest()


def picture_size(content: bytes) -> tuple[int, int] | None:
    """Read (width, height) in pixels from an image file's header; None if it is damaged."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except DAMAGE:
        return None
