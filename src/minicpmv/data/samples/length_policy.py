"""Makes records fit the length limit: fewer slices per image first, then what the user has chosen.

The same record always fits in the same way. An image is never truncated, and text only at the end of a record's last
answer, if the user allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from minicpmv.data.records.record import Record
from minicpmv.data.samples.compared import Comparison, Encoded
from minicpmv.data.sources.skipping import TOO_LONG
from minicpmv.errors import DataError, Problem
from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.tokenization import EncodedSample

__all__ = ["Fit", "Limits", "OnLongRecord", "fit_record"]

OnLongRecord = Literal["fewer_slices", "error", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Holds the length limit, and the treatment of longer records."""

    max_length: int
    """Tokens, image tokens included."""
    max_slice_nums: int
    """Most tiles per image."""
    on_long_record: OnLongRecord = "fewer_slices"
    """``fewer_slices`` and ``skip``: as many slices as fit. ``error``: all of them. What does not fit even so is an
    error, or, with ``skip``, left out by the caller."""
    truncate_answers: bool = False
    """Whether the last answer of a record that does not fit otherwise loses its end."""


class Fit(NamedTuple):
    """Holds the length of one record as trained."""

    max_slice_nums: int
    """Most tiles per image."""
    length: int
    """Tokens; the next two are shares of them."""
    num_trained: int
    """With a label, whatever it weighs; an answer of weight 0 has none."""
    num_image_tokens: int
    wanted: int
    """Tokens with all the slices that the limit of tiles allows, and whole text."""
    num_cut: int
    """Tokens that the last answer has lost at its end, that of its end-of-turn token included."""


def fit_record(
    record: Record,
    image_sizes: Sequence[tuple[int, int]],
    processor: MiniCPMVProcessor,
    limits: Limits,
    comparison: Comparison,
) -> Fit:
    """Find the most slices per image with which a record fits, and cut its last answer if that is allowed and needed.

    Args:
        record: The record.
        image_sizes: (width, height) of its images in pixels.
        processor: The checkpoint's.
        limits: What to fit into.
        comparison: Which answers there are.

    Raises:
        DataError: It is too long nevertheless (D201).
    """
    keeps_slices = limits.on_long_record == "error" or not image_sizes
    fewest = limits.max_slice_nums if keeps_slices else 1
    wanted = 0
    sample: Any = EncodedSample([], [], [], [], [])
    for max_slice_nums in range(limits.max_slice_nums, fewest - 1, -1):
        encode = partial(processor.encode_text, image_sizes=image_sizes, max_slice_nums=max_slice_nums)
        _, sample = comparison.encode(record, encode, encode)
        wanted = wanted or len(sample.input_ids)
        if len(sample.input_ids) <= limits.max_length:
            return _fit(sample, len(sample.input_ids), max_slice_nums, wanted)
    if limits.truncate_answers and _start_of_last_answer(sample.answer_mask) < limits.max_length:
        return _fit(sample, limits.max_length, fewest, wanted)
    raise DataError([_too_long(record, sample, limits, num_images=len(image_sizes))])


def _fit(sample: Encoded, length: int, max_slice_nums: int, wanted: int) -> Fit:
    return Fit(
        max_slice_nums=max_slice_nums,
        length=length,
        num_trained=length - sample.labels[:length].count(IGNORED),
        num_image_tokens=sum(sample.image_mask),
        wanted=wanted,
        num_cut=len(sample.input_ids) - length,
    )


def _start_of_last_answer(answer_mask: Sequence[bool]) -> int:
    """Find the first token of the last answer, trained or not: all images, and all other turns, stand before it."""
    position = len(answer_mask)
    while position and not answer_mask[position - 1]:
        position -= 1
    while position and answer_mask[position - 1]:
        position -= 1
    return position


def _too_long(record: Record, sample: Encoded, limits: Limits, *, num_images: int) -> Problem:
    length, needed = len(sample.input_ids), f"set --model_max_length to {len(sample.input_ids)} or more"
    images = f", {sum(sample.image_mask)} of them for images" if num_images else ""
    if num_images and limits.on_long_record == "error":
        fix = f"{needed}, or allow fewer slices (--on_long_record fewer_slices)"
    else:
        images += " with one slice each" if num_images else ""
        fix = f"{needed}, or shorten or split the conversation"
    return Problem(
        code=TOO_LONG,
        where=record.where(),
        found=f"{length} tokens{images}",
        expected=f"at most {limits.max_length} (--model_max_length)",
        fix=fix,
    )
