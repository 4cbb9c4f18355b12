"""Has a model answer records in batches, each as it would be answered alone.

The processor of training renders a record's last question, given all before it. Answers come batch by batch, not in the
order of the records; sort them by ``index`` for that.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterable, Iterator, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch

from minicpmv.data.records.record import Record
from minicpmv.errors import NotFiniteError
from minicpmv.inference.ahead import ahead
from minicpmv.inference.batching import BATCH_SIZE
from minicpmv.inference.generation import GenerationSettings, draw_answers
from minicpmv.inference.loading import LoadedModel
from minicpmv.inference.picture_features import SeenPictures, ShownAs
from minicpmv.inference.questions import Question, choose, encode_question, plan_questions
from minicpmv.machine.shortage import MemoryShortageError, naming_shortage
from minicpmv.models.answering.answers import thinking_setting
from minicpmv.models.networks.cached_slices import is_sharded
from minicpmv.processing.batching import pad_left
from minicpmv.processing.encoding import EncodedConversation
from minicpmv.wording import counted

__all__ = ["Answering", "Prediction", "Predictor", "predict"]

_log = logging.getLogger(__name__)

_FEWER = "answer fewer records at once: lower --answer_batch_size"  # where the weights are sharded
_SMALLER = (
    "allow shorter answers (--max-new-tokens, in a run --eval_max_new_tokens or --eval_sample_tokens), or cut images "
    "into fewer tiles (--max-slice-nums)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One record's answer, with the reference if there is one."""

    index: int
    """Position among the records, from 0."""
    id: str | int | None
    """The record's own id, if it has one."""
    question: str
    """Text of the last question, without its images."""
    answer: str
    """The model's answer, with its thoughts."""
    reference: str | None
    """The record's reference answer; None where it ends with the question."""
    references: tuple[str, ...] = ()
    """Answers that count as correct in addition to or instead of it, where the record lists any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answering:
    """Answers batches of questions, as work for ``model_processes``."""

    settings: GenerationSettings
    """How tokens are chosen."""
    seed: int = 0
    """With ``sample``, seed of each record's random numbers, together with its position."""
    shown_as: ShownAs = "they are"
    """How pictures and frames are shown; changed, to test what the model answers without seeing them or their order."""

    def __call__(self, loaded: LoadedModel, batches: Iterable[Sequence[Question]]) -> Generator[list[Prediction]]:
        """Answer batch by batch; the texts and pictures of the next one are read while the device computes.

        A batch that exceeds the device's memory is answered in halves, with a notice, unless the model's weights are
        sharded: a process that answers in halves alone would make the others wait forever.

        Args:
            loaded: The model that answers.
            batches: Batches, requested one ahead.

        Raises:
            DataError: A record is no longer readable.
            ImageError: A picture cannot be read.
            FilmError: A film cannot be read.
            NotFiniteError: The logits for a record are not finite. None of its batch is answered then.
            UsageError: A conversation does not fit the model's version.
            MemoryShortageError: A single record exceeds the memory.
        """
        return Predictor(loaded, self).answer_all(batches)


class _Encoded(NamedTuple):
    question: Question
    text: EncodedConversation
    """The encoded prompt, with pixels only where the vision side is sharded."""


class _Batch(NamedTuple):
    rows: list[_Encoded]
    opened: MutableMapping[Any, Any]
    """Pictures that :class:`SeenPictures` has opened ahead."""


class Predictor:
    """Answers batches of questions.

    Args:
        loaded: The model that answers.
        work: Its settings.
    """

    def __init__(self, loaded: LoadedModel, work: Answering) -> None:
        self._loaded = loaded
        self._work = work
        self._settings = work.settings
        thinking_setting(loaded.processor.version, work.settings.enable_thinking)  # refused here, not in a thread
        self._pictures: SeenPictures | None = None
        if not is_sharded(loaded.model):  # otherwise only the whole model's forward gathers the weights
            self._pictures = SeenPictures(loaded, shown_as=work.shown_as)
        self._room: float = float("inf")
        """Most tokens per batch, longest answers included: half of the smallest batch that exceeded the memory."""

    def answer_all(self, batches: Iterable[Sequence[Question]]) -> Generator[list[Prediction]]:
        """See ``Answering``."""
        with closing(ahead(batches, self._encode)) as encoded:
            for batch in encoded:
                yield self._answer(batch)

    def _encode(self, questions: Sequence[Question]) -> _Batch:
        pictures = self._pictures
        rows = [
            _Encoded(
                question,
                encode_question(
                    self._loaded.processor,
                    question,
                    settings=self._settings,
                    with_pixels=pictures is None,
                    shown_as=self._work.shown_as,
                ),
            )
            for question in questions
        ]
        asked = ((question.shown, question.max_slice_nums) for question in questions)
        return _Batch(rows, {} if pictures is None else pictures.open(asked))

    def _answer(self, batch: _Batch) -> list[Prediction]:
        waiting, said = [batch.rows], list[Any]()
        while waiting:
            rows = waiting.pop(0)
            found = self._draw(rows, batch.opened)
            if found is None:
                middle = len(rows) // 2
                waiting[:0] = [rows[:middle], rows[middle:]]
            else:
                said += found
        return [self.result(row.question, answer) for row, answer in zip(batch.rows, said, strict=True)]

    def result(self, question: Question, said: Any) -> Prediction:
        """Make the result of a question of what ``draw`` returned for it."""
        record = question.record
        return Prediction(
            index=int(question.index),
            id=record.id,
            question=question.shown.turns[-1].text,
            answer=said,
            reference=record.turns[-1].spoken if record.turns[-1].role == "assistant" else None,
            references=record.references,
        )

    def draw(self, inputs: dict[str, Any], indices: Sequence[int]) -> Sequence[Any]:
        """Answer the rows of a batch.

        Args:
            inputs: The model's inputs, padded on the left, on its device.
            indices: Positions of the questions.
        """
        seeds = [_own_seed(self._work.seed, index) for index in indices]
        return draw_answers(self._loaded, inputs, settings=self._settings, seeds=seeds)

    def _draw(self, rows: Sequence[_Encoded], opened: MutableMapping[Any, Any]) -> Sequence[Any] | None:
        """Answer rows together; None if they exceed the memory."""
        length = max(len(row.text.input_ids) for row in rows) + self._settings.max_new_tokens
        if len(rows) > 1 and len(rows) * length > self._room:
            return None
        try:
            with naming_shortage("memory", lambda: self._describe(rows), fix=_FEWER if len(rows) > 1 else _SMALLER):
                return self._draw_together(rows, opened)
        except MemoryShortageError as error:
            if len(rows) == 1 or self._pictures is None:
                raise
            found = str(error).splitlines()[0]
        # Here, and not in the except clause, where the error's frames still hold the allocated memory.
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        self._room = (len(rows) - len(rows) // 2) * length
        _log.warning("%s; from here on at most %s tokens, answers included, are answered together", found, self._room)
        return None

    def _describe(self, rows: Sequence[_Encoded]) -> str:
        longest = max(len(row.text.input_ids) for row in rows)
        answers = f"answers of up to {self._settings.max_new_tokens:,}"
        return f"{counted(len(rows), 'record')} at once, with prompts of up to {longest:,} tokens and {answers}"

    def _draw_together(self, rows: Sequence[_Encoded], opened: MutableMapping[Any, Any]) -> Sequence[Any]:
        try:
            return self.draw(self._inputs(rows, opened), [row.question.index for row in rows])
        except NotFiniteError as error:
            where = rows[error.rows[0]].question.record.where()
            raise NotFiniteError(f"{where}: {error}", rows=error.rows) from error

    def _inputs(self, rows: Sequence[_Encoded], opened: MutableMapping[Any, Any]) -> dict[str, Any]:
        """Make the model's inputs."""
        image_processor = self._loaded.processor.image_processor
        inputs = dict(pad_left([row.text for row in rows], image_processor, "pt"))
        if self._pictures is not None:
            found = [self._pictures.features(row.question.shown, row.question.max_slice_nums, opened) for row in rows]
            features = [of_record for of_record in found if of_record is not None]
            inputs.pop("pixel_values", None)
            inputs.pop("tgt_sizes", None)
            inputs.pop("temporal_ids", None)
            if features:
                inputs["image_features"] = torch.cat(features)
        return {name: value.to(self._loaded.device) for name, value in inputs.items()}


def predict(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    settings: GenerationSettings,
    batch_size: int | None = BATCH_SIZE,
    max_batch_tokens: int | None = None,
    seed: int = 0,
    shown_as: ShownAs = "they are",
) -> Iterator[Prediction]:
    """Answer every record, the longest first.

    Args:
        loaded: The model that answers.
        records: The records, read when needed. An assistant turn at the end is not shown to the model: it is the
            reference.
        settings: How tokens are chosen.
        batch_size: Most records answered at once; None for any number.
        max_batch_tokens: Most tokens answered at once, see ``plan_batches``.
        seed: As for ``Answering``.
        shown_as: As for ``Answering``.

    Yields:
        Answers as they come.

    Raises:
        DataError: A record is no longer readable.
        ImageError: A picture cannot be read.
        FilmError: A film cannot be read.
        NotFiniteError: The logits for a record are not finite.
        UsageError: The version cannot think, or a conversation does not fit it.
        MemoryShortageError: A single record exceeds the memory.
    """
    answering = Answering(settings=settings, seed=seed, shown_as=shown_as)
    plan = plan_questions(
        loaded.processor, records, settings=settings, batch_size=batch_size, max_batch_tokens=max_batch_tokens
    )
    batches = (choose(records, batch.tolist(), max_slice_nums=settings.max_slice_nums) for batch in plan)
    yield from chain.from_iterable(answering(loaded, batches))


def _own_seed(seed: int, index: int) -> int:
    """Combine two numbers into one seed, such that neighbouring seeds are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8], "big", signed=True)
