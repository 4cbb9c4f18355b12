"""Lets a model answer records: many at once, each as it would be answered alone.

What is asked is rendered by the same processor as in training: a record's last question, given all before it. Answers
come batch by batch, not in the order of the records; whoever wants them so sorts them by ``index``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minicpmv.data.records import Record
from minicpmv.errors import NotFiniteError, UsageError
from minicpmv.inference.batching import plan_batches
from minicpmv.inference.generation import GenerationSettings, draw_answers
from minicpmv.inference.loading import LoadedModel
from minicpmv.inference.pictures import SeenPictures, count_pictures, name_picture, open_picture
from minicpmv.models.answers import thinking_setting
from minicpmv.models.known_slices import is_sharded
from minicpmv.processing.batching import pad_left
from minicpmv.processing.encoding import EncodedConversation
from minicpmv.processing.thinking import without_thinking
from minicpmv.shortage import naming_shortage

__all__ = ["Prediction", "Predictor", "predict"]

_SMALLER = (
    "answer fewer records at once (--batch-size, --batch-tokens, in a run --per_device_eval_batch_size), allow "
    "shorter answers (--max-new-tokens, --eval_max_new_tokens), or cut images into fewer tiles (--max-slice-nums)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One record's answer, beside the known one if there is one."""

    index: int
    """Position among the records, from 0."""
    id: str | int | None
    """The record's own, if it has one."""
    question: str
    """Text of the last question, without its images."""
    answer: str
    """What the model said, its thoughts included."""
    reference: str | None
    """What the record says; None where it ends with the question."""
    references: tuple[str, ...] = ()
    """Answers that count as right beside or instead of it, where the record lists any."""

    @property
    def is_exact(self) -> bool:
        """Whether both agree but for thoughts before, and white space around them."""
        return self.reference is not None and without_thinking(self.answer) == without_thinking(self.reference)


class Predictor:
    """A model and the records that it is asked.

    Args:
        loaded: Who answers.
        records: Read when they are needed. An assistant turn at the end of one is not shown to the model: it is the
            reference.
        settings: How tokens are chosen.
        seed: With ``sample``, what the random numbers of each record follow from, together with its position.
        blank_images: Show a grey picture of the same size instead of each image: what the model answers unseeing.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        records: Sequence[Record],
        *,
        settings: GenerationSettings,
        seed: int = 0,
        blank_images: bool = False,
    ) -> None:
        self._loaded = loaded
        self._records = records
        self._settings = settings
        self._seed = seed
        self._blank_images = blank_images
        self._thinking = thinking_setting(loaded.processor.version, settings.enable_thinking)
        self._pictures: SeenPictures | None = None
        if not is_sharded(loaded.model):  # otherwise only the whole model's forward brings the weights together
            self._pictures = SeenPictures(loaded, max_slice_nums=settings.max_slice_nums, blank=blank_images)

    def plan(self, *, batch_size: int | None, max_batch_tokens: int | None = None) -> list[NDArray[np.int64]]:
        """Measure every record, without opening pictures, and divide them into batches; see ``plan_batches``.

        Raises:
            DataError: A record cannot be read any more.
            UsageError: A conversation does not fit the model's version.
        """
        lengths = np.zeros(len(self._records), dtype=np.int64)
        groups = np.zeros(len(self._records), dtype=np.int64)
        for index in range(len(self._records)):
            question = _without_reference(self._records[index])
            lengths[index] = len(self._encode(question).input_ids)
            groups[index] = _group(question, index)
        return plan_batches(
            lengths,
            groups,
            max_new_tokens=self._settings.max_new_tokens,
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
        )

    def answer(self, positions: Sequence[int]) -> list[Prediction]:
        """Answer some records together.

        Raises:
            ImageError: A picture cannot be read.
            NotFiniteError: The logits for a record are not finite. None of them is answered then.
            MemoryShortageError: So many records at once do not fit.
        """
        records = [self._records[index] for index in positions]
        questions = [_without_reference(record) for record in records]
        seeds = [_own_seed(self._seed, index) for index in positions]
        try:
            with naming_shortage("memory", lambda: self._describe(questions), fix=_SMALLER):
                said = draw_answers(self._loaded, self._read(questions), settings=self._settings, seeds=seeds)
        except NotFiniteError as error:
            raise NotFiniteError(f"{records[error.rows[0]].where()}: {error}", rows=error.rows) from error
        return [
            Prediction(
                index=int(index),
                id=record.id,
                question=question.turns[-1].text,
                answer=answer,
                reference=record.turns[-1].text if record.turns[-1].role == "assistant" else None,
                references=record.references,
            )
            for index, record, question, answer in zip(positions, records, questions, said, strict=True)
        ]

    def _read(self, questions: Sequence[Record]) -> dict[str, Any]:
        """Make the model's inputs."""
        encoded = [self._encode(question, with_pixels=self._pictures is None) for question in questions]
        inputs = dict(pad_left(encoded, self._loaded.processor.image_processor, "pt"))
        if self._pictures is not None:
            found = [self._pictures.features(question) for question in questions]
            features = [of_record for of_record in found if of_record is not None]
            inputs.pop("pixel_values", None)
            inputs.pop("tgt_sizes", None)
            if features:
                inputs["image_features"] = torch.cat(features)
        return {name: value.to(self._loaded.device) for name, value in inputs.items()}

    def _describe(self, questions: Sequence[Record]) -> str:
        longest = max(len(self._encode(question).input_ids) for question in questions)
        answers = f"answers of up to {self._settings.max_new_tokens:,}"
        return f"{len(questions)} record(s) at once, with prompts of up to {longest:,} tokens and {answers}"

    def _encode(self, question: Record, *, with_pixels: bool = False) -> EncodedConversation:
        processor = self._loaded.processor
        how: dict[str, Any] = {
            "add_generation_prompt": True,
            "max_slice_nums": self._settings.max_slice_nums,
            "enable_thinking": self._thinking,
        }
        number = range(count_pictures(question))
        try:
            if with_pixels or question.image_sizes is None:
                pictures = [open_picture(question, position, blank=self._blank_images) for position in number]
                encoded = processor.encode_conversation(question.turns, pictures, **how)
                return encoded if with_pixels else replace(encoded, pixel_values=_NO_PIXELS)
            sample = processor.encode_text(question.turns, question.image_sizes[: len(number)], **how)
        except UsageError as error:
            raise UsageError(f"{question.where()}: {error}") from error
        return EncodedConversation(sample.input_ids, sample.labels, sample.image_mask, _NO_PIXELS, [])


_NO_PIXELS = np.zeros((0, 0), dtype=np.uint8)


def predict(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    settings: GenerationSettings,
    batch_size: int | None = 16,
    max_batch_tokens: int | None = None,
    seed: int = 0,
    blank_images: bool = False,
) -> Iterator[Prediction]:
    """Answer every record, the longest first.

    Args:
        loaded: Who answers.
        records: As for ``Predictor``.
        settings: How tokens are chosen.
        batch_size: Most records answered at once; None for any number.
        max_batch_tokens: Most tokens answered at once, see ``plan_batches``.
        seed: As for ``Predictor``.
        blank_images: As there.

    Yields:
        Answers as they come.

    Raises:
        DataError: A record cannot be read any more.
        ImageError: A picture cannot be read.
        NotFiniteError: The logits for a record are not finite.
        UsageError: Thinking is asked of a version that cannot, or a conversation does not fit the version.
    """
    predictor = Predictor(loaded, records, settings=settings, seed=seed, blank_images=blank_images)
    for batch in predictor.plan(batch_size=batch_size, max_batch_tokens=max_batch_tokens):
        yield from predictor.answer(batch.tolist())


def _without_reference(record: Record) -> Record:
    return replace(record, turns=record.turns[:-1]) if record.turns[-1].role == "assistant" else record


def _group(question: Record, index: int) -> int:
    """Number a record by what it shows; one without pictures stands alone."""
    names = [name_picture(question, position) for position in range(count_pictures(question))]
    described = b"".join(names) if names else f"text {index}".encode()
    return int.from_bytes(hashlib.sha256(described).digest()[:8], "big", signed=True)


def _own_seed(seed: int, index: int) -> int:
    """Make one seed of two, such that neighbours have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8], "big", signed=True)
