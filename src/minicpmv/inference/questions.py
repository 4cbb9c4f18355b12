"""Turns records into questions: the last one of a record, given all before it, rendered by the processor of training.

It also measures questions without opening pictures, and divides them into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.record import Record
from minicpmv.errors import UsageError
from minicpmv.inference.batching import plan_batches
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.picture_features import (
    ShownAs,
    count_films,
    count_pictures,
    name_film,
    name_picture,
    open_picture,
    show_film,
)
from minicpmv.models.answering.answers import thinking_setting
from minicpmv.processing.encoding import EncodedConversation, Writing
from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["Question", "choose", "encode_question", "plan_questions"]

_NO_PIXELS = np.zeros((0, 0), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Question:
    """A record to be asked; it can be sent to another process."""

    index: int
    """Position among the records, from 0."""
    record: Record
    """The record; an assistant turn at its end is not shown to the model: it is the reference."""
    max_slice_nums: int | None
    """Most tiles of each picture; by default the checkpoint's number."""

    @property
    def shown(self) -> Record:
        """The part of the record that the model is shown."""
        record = self.record
        return replace(record, turns=record.turns[:-1]) if record.turns[-1].role == "assistant" else record


def choose(
    records: Sequence[Record], positions: Sequence[int], *, max_slice_nums: int | Sequence[int | None] | None
) -> list[Question]:
    """Read some records as questions.

    Args:
        records: All records.
        positions: Positions of the records to read.
        max_slice_nums: Most tiles of every picture, or of the pictures of each of all records.
    """
    limits = max_slice_nums if isinstance(max_slice_nums, Sequence) else None
    return [
        Question(index, records[index], max_slice_nums if limits is None else limits[index])  # pyright: ignore[reportArgumentType]
        for index in positions
    ]


def plan_questions(
    processor: MiniCPMVProcessor,
    records: Sequence[Record],
    *,
    settings: GenerationSettings,
    batch_size: int | None,
    max_batch_tokens: int | None = None,
    max_slice_nums: Sequence[int | None] | None = None,
) -> list[NDArray[np.int64]]:
    """Measure every record, without opening pictures, and divide them into batches; see ``plan_batches``.

    Args:
        processor: The checkpoint's.
        records: The records to ask.
        settings: How tokens are chosen.
        batch_size: Most records of a batch.
        max_batch_tokens: Most tokens of a batch.
        max_slice_nums: Most tiles of each record's pictures; by default the settings'.

    Raises:
        DataError: A record is no longer readable.
        UsageError: A conversation does not fit the model's version, or the version cannot think.
    """
    lengths = np.zeros(len(records), dtype=np.int64)
    groups = np.zeros(len(records), dtype=np.int64)
    limits = settings.max_slice_nums if max_slice_nums is None else max_slice_nums
    for index in range(len(records)):
        (question,) = choose(records, [index], max_slice_nums=limits)
        lengths[index] = len(encode_question(processor, question, settings=settings).input_ids)
        groups[index] = _group(question)
    return plan_batches(
        lengths,
        groups,
        max_new_tokens=settings.max_new_tokens,
        batch_size=batch_size,
        max_batch_tokens=max_batch_tokens,
    )


def encode_question(
    processor: MiniCPMVProcessor,
    question: Question,
    *,
    settings: GenerationSettings,
    with_pixels: bool = False,
    shown_as: ShownAs = "they are",
) -> EncodedConversation:
    """Encode a question's text, or its pictures and films as well.

    Raises:
        ImageError: A picture cannot be read.
        FilmError: A film cannot be read.
        UsageError: The conversation does not fit the model's version.
    """
    shown = question.shown
    how: Writing = {
        "add_generation_prompt": True,
        "max_slice_nums": question.max_slice_nums,
        "enable_thinking": thinking_setting(processor.version, settings.enable_thinking),
    }
    num_pictures, num_films = count_pictures(shown), count_films(shown)
    try:
        films = [show_film(processor, shown, number, shown_as) for number in range(num_films)]
        if with_pixels or shown.image_sizes is None:
            pictures = [open_picture(shown, number, blank=shown_as == "blank") for number in range(num_pictures)]
            if with_pixels:
                return processor.encode_conversation(shown.turns, pictures, films=films, **how)
            sizes = [picture.size for picture in pictures]
        else:
            sizes = list(shown.image_sizes[:num_pictures])
        sample = processor.encode_text(shown.turns, sizes, films=[film.plan for film in films], **how)
    except UsageError as error:
        raise UsageError(f"{shown.where()}: {error}") from error
    known = (sample.input_ids, sample.labels, sample.image_mask)
    return EncodedConversation(*known, _NO_PIXELS, [], position_rows=sample.position_rows)


def _group(question: Question) -> int:
    """Return a group number for the pictures and films of a question; one without any has its own group."""
    described = b"".join(_names(question)) or f"text {question.index}".encode()
    return int.from_bytes(hashlib.sha256(described).digest()[:8], "big", signed=True)


def _names(question: Question) -> Iterator[bytes]:
    shown = question.shown
    yield from (name_picture(shown, number) for number in range(count_pictures(shown)))
    yield from (name_film(shown, number) for number in range(count_films(shown)))
