"""Records as a map-style torch dataset. Pictures are opened when an item is asked for; nothing is altered in silence.

A record that is too long gets fewer slices per image, the same ones every time, and is listed; if one slice per image
is still too long, it is an error. Text is never cut, an image neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from minicpmv.data.embedded import describe_image
from minicpmv.data.records import Record
from minicpmv.errors import ConfigError, DataError, Problem
from minicpmv.models.loss import IGNORED
from minicpmv.processing.images import ImageError, load_image
from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["ConversationDataset", "Fit", "LengthReport", "Reduction"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduction:
    """One record whose images get fewer slices, so that it fits."""

    where: str
    wanted: int
    """Tokens without the reduction."""
    length: int
    """Tokens with it."""
    max_slice_nums: int
    """Most tiles per image in this record; 1 leaves the overview only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthReport:
    """What a data set costs in tokens, known before any picture is decoded."""

    lengths: tuple[int, ...]
    """Tokens of each record, as it is trained on."""
    num_trained: tuple[int, ...]
    """Those of them that have a label."""
    num_image_tokens: tuple[int, ...]
    """Those of them that are image slots."""
    reductions: tuple[Reduction, ...]


class Fit(NamedTuple):
    """How one record is trained on."""

    max_slice_nums: int
    """Most tiles per image."""
    length: int
    """Tokens; the next two are shares of them."""
    num_trained: int
    num_image_tokens: int
    wanted: int
    """Tokens with all the slices that the data set's limit of tiles allows."""


class ConversationDataset(Dataset[dict[str, Tensor]]):
    """Encodes one record at a time; safe in worker processes and deterministic in any order.

    An item holds ``input_ids`` and ``labels`` [T] int64, ``image_mask`` [T] bool, ``pixel_values`` [P, 588] float32 and
    ``tgt_sizes`` [S, 2] int64, the last two without rows for a record without images.

    Args:
        records: From ``load_records``.
        processor: The checkpoint's.
        max_length: Most tokens of one record, image tokens included.
        max_slice_nums: Most tiles per image; the checkpoint's own number if not given.

    Raises:
        ConfigError: A limit cannot work.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: MiniCPMVProcessor,
        *,
        max_length: int,
        max_slice_nums: int | None = None,
    ) -> None:
        for name, value in (("model_max_length", max_length), ("max_slice_nums", max_slice_nums)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: found {value}, expected at least 1\n  fix: set {name} to a positive number")
        self.records = tuple(records)
        self.processor = processor
        self.max_length = max_length
        self.max_slice_nums = processor.image_processor.slice_config(max_slice_nums).max_slice_nums
        self._fits: dict[int, Fit] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Encode one record.

        Raises:
            DataError: It is too long even with one slice per image, or an image is no longer what it was when checked.
        """
        record = self.records[index]
        fit = self.fit(index)
        images = [_load(record, position) for position in range(len(record.images))]
        sample = self.processor.encode_conversation(record.turns, images, max_slice_nums=fit.max_slice_nums)
        if len(sample.input_ids) != fit.length:
            raise DataError([_resized(record)])
        return {
            "input_ids": torch.tensor(sample.input_ids, dtype=torch.int64),
            "labels": torch.tensor(sample.labels, dtype=torch.int64),
            "image_mask": torch.tensor(sample.image_mask, dtype=torch.bool),
            "pixel_values": torch.from_numpy(sample.pixel_values),
            "tgt_sizes": torch.tensor(sample.tgt_sizes, dtype=torch.int64).reshape(-1, 2),
        }

    def check_lengths(self) -> LengthReport:
        """Measure every record, from texts and image sizes alone, so that a run can stop before it starts.

        Records that need fewer slices are logged in one warning and listed in the report.

        Raises:
            DataError: Naming every record that does not fit with one slice per image either.
        """
        problems: list[Problem] = []
        fits: list[Fit] = []
        reductions: list[Reduction] = []
        for index, record in enumerate(self.records):
            try:
                fit = self.fit(index)
            except DataError as error:
                problems += error.problems
                continue
            fits.append(fit)
            if fit.wanted > fit.length:
                reductions.append(
                    Reduction(
                        where=record.where(),
                        wanted=fit.wanted,
                        length=fit.length,
                        max_slice_nums=fit.max_slice_nums,
                    )
                )
        if problems:
            raise DataError(problems)
        if reductions:
            first = reductions[0]
            _logger.warning(
                "%d of %d records exceed %d tokens and get fewer slices per image, the first of them %s: "
                "%d tokens become %d with max_slice_nums %d. A larger --model_max_length keeps all slices.",
                len(reductions),
                len(self.records),
                self.max_length,
                first.where,
                first.wanted,
                first.length,
                first.max_slice_nums,
            )
        return LengthReport(
            lengths=tuple(fit.length for fit in fits),
            num_trained=tuple(fit.num_trained for fit in fits),
            num_image_tokens=tuple(fit.num_image_tokens for fit in fits),
            reductions=tuple(reductions),
        )

    def fit(self, index: int) -> Fit:
        """Find the most slices per image with which a record fits, once for each record.

        Raises:
            DataError: It is too long even with one slice per image.
        """
        if index not in self._fits:
            self._fits[index] = self._search(self.records[index])
        return self._fits[index]

    def _search(self, record: Record) -> Fit:
        sizes = record.image_sizes
        if sizes is None:
            sizes = tuple(_load(record, position).size for position in range(len(record.images)))
        fewest = 1 if sizes else self.max_slice_nums
        wanted = length = num_image_tokens = 0
        for max_slice_nums in range(self.max_slice_nums, fewest - 1, -1):
            sample = self.processor.encode_text(record.turns, sizes, max_slice_nums=max_slice_nums)
            length, num_image_tokens = len(sample.input_ids), sum(sample.image_mask)
            wanted = wanted or length
            if length <= self.max_length:
                num_trained = sum(label != IGNORED for label in sample.labels)
                return Fit(max_slice_nums, length, num_trained, num_image_tokens, wanted)
        images = f", {num_image_tokens} of them for images with one slice each" if sizes else ""
        raise DataError(
            [
                Problem(
                    code="D201",
                    where=record.where(),
                    found=f"{length} tokens{images}",
                    expected=f"at most {self.max_length} (--model_max_length)",
                    fix=f"set --model_max_length to {length} or more, or shorten or split the conversation",
                )
            ]
        )


def _load(record: Record, position: int) -> Image:
    try:
        return load_image(record.images[position])
    except ImageError as error:
        where = record.where(f"image {position}")
        name = describe_image(record.images[position])
        found = f"{error.found} in {name}, which has changed since the data were checked"
        raise DataError([Problem("D202", where, found, error.expected, error.fix)]) from error


def _resized(record: Record) -> Problem:
    expected = "the size it had when the data were checked"
    fix = "leave the image files alone during a run, and start again"
    return Problem("D203", record.where("image"), "an image of another size", expected, fix)
