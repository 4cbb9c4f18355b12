"""Lets a model answer records, measures its loss on them, and yields the line of each for a file of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.answers import Answers
from minicpmv.data.records.inline_images import image_names
from minicpmv.data.records.record import Record
from minicpmv.data.records.sequences import Selected
from minicpmv.data.samples.length_policy import plan_films
from minicpmv.evaluation.measuring.losses import Losses
from minicpmv.evaluation.metrics.base import Metric, Sample
from minicpmv.evaluation.score_files import make_sample
from minicpmv.inference.batching import BATCH_SIZE
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.model_processes import Models
from minicpmv.inference.picture_features import ShownAs
from minicpmv.inference.predicting import Answering, Prediction
from minicpmv.inference.questions import choose, plan_questions
from minicpmv.processing.films.request import REQUEST_KEYS
from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["ask", "describe_films", "line_of", "prepare", "sample_of"]

_AT_A_TIME = 1024
"""Most records whose answers are held in memory."""


def prepare(metrics: Sequence[Metric], asked: Answers) -> None:
    """Show all records to the metrics that need them before the first answer is measured.

    Raises:
        UsageError: A metric cannot measure such records.
    """
    for metric in metrics:
        for record in asked if metric.sees_all_first else ():
            metric.prepare(sample_of(record))


def ask(
    models: Models,
    asked: Answers,
    metrics: Sequence[Metric],
    *,
    settings: GenerationSettings,
    batch_size: int = BATCH_SIZE,
    max_length: int,
    shown_as: ShownAs = "they are",
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[dict[str, Any], Sample]]:
    """Yield the line and the sample of each answer, in order, computing only what some metric needs.

    Args:
        models: The models to measure, one in each process.
        asked: The answers to ask for. The loss is of whole records, so with one of its metrics each has one answer.
        metrics: Metrics that the answers are for.
        settings: Settings of generation.
        batch_size: Records that are answered at once.
        max_length: Most tokens of a record whose loss is measured.
        shown_as: As for ``Answering``.
        on_progress: Called with the number of answers done so far.

    Raises:
        DataError: A record whose loss is measured does not fit, or its picture cannot be read.
        ImageError: A picture cannot be read.
        UsageError: Thinking is asked of a version that cannot think.
        MemoryShortageError: There is too little memory for a record.
    """
    is_answered = any(metric.needs_answers for metric in metrics)
    is_measured = not all(metric.needs_answers for metric in metrics)
    for start in range(0, len(asked), _AT_A_TIME):
        here = np.arange(start, min(start + _AT_A_TIME, len(asked)))
        chosen = Selected(asked, here)

        def tell(done: int, start: int = start) -> None:
            if on_progress is not None:
                on_progress(start + done)

        answers: Any = repeat(None)
        if is_answered:
            answering = Answering(settings=settings, shown_as=shown_as)
            plan = plan_questions(models.processor, chosen, settings=settings, batch_size=batch_size)
            answers = _in_order(models, answering, chosen, plan, tell=None if is_measured else tell)
        losses: Any = repeat((None, None))
        if is_measured:
            measuring = Losses(max_length=max_length, max_slice_nums=settings.max_slice_nums)
            losses = models.map(measuring, Selected(asked.records, here))
        for number, (record, answer, (nats, weight)) in enumerate(zip(chosen, answers, losses, strict=False)):
            said = None if answer is None else answer.answer
            films = describe_films(record, models.processor)
            yield line_of(record, asked.fields(start + number), said, nats, weight, films=films)
            if is_measured:
                tell(number + 1)


def _in_order(
    models: Models,
    answering: Answering,
    records: Sequence[Record],
    plan: Sequence[NDArray[np.int64]],
    *,
    tell: Callable[[int], None] | None,
) -> list[Prediction]:
    """Answer all records, and yield the answers in the records' order."""
    answered: list[Prediction] = []
    limit = answering.settings.max_slice_nums
    for batch in models.map(answering, (choose(records, each.tolist(), max_slice_nums=limit) for each in plan)):
        answered += batch
        if tell is not None:
            tell(len(answered))
    return sorted(answered, key=lambda prediction: prediction.index)


def sample_of(record: Record, *, answer: str = "", nats: float | None = None, weight: float | None = None) -> Sample:
    """Return the sample of a record's last answer: the expected texts, and the results if there are any."""
    return make_sample(
        question=record.turns[-2].text,
        answer=answer,
        references=record.references or (record.turns[-1].spoken,),
        nats=nats,
        weight=weight,
    )


def describe_films(record: Record, processor: MiniCPMVProcessor) -> list[dict[str, Any]]:
    """Describe a record's films for a file of answers: as a record names each, and the times of the frames shown."""
    return [
        {
            "video": film.source if isinstance(film.source, str) else list(film.source),
            **{key: value for key in REQUEST_KEYS if (value := getattr(film.request, key)) is not None},
            "shown_at": list(plan.times),
        }
        for film, plan in zip(record.films, plan_films(record, processor), strict=True)
    ]


def line_of(
    record: Record,
    place: Mapping[str, int],
    answer: str | None,
    nats: float | None = None,
    weight: float | None = None,
    *,
    films: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any], Sample]:
    """Return a record's line for a file of answers, and its sample for metrics.

    Args:
        record: The record, which ends with the answer that was asked for.
        place: From ``Answers.fields``.
        answer: The model's answer, if one was asked for.
        nats: Loss of the record's answers, if it was measured.
        weight: Weight of their tokens.
        films: From ``describe_films``.
    """
    line: dict[str, Any] = {"id": record.id, **place, "question": record.turns[-2].text}
    line |= {} if answer is None else {"answer": answer}
    line["reference"] = record.turns[-1].spoken
    line |= {"images": image_names(record.images)} if record.images else {}
    line |= {"videos": list(films)} if films else {}
    line |= {"references": list(record.references)} if record.references else {}
    line |= {} if nats is None else {"nats": nats, "weight": weight}
    return line, sample_of(record, answer=answer or "", nats=nats, weight=weight)
