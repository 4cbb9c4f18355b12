"""Records the model's answers to a few validation questions: before the first step, and at every evaluation.

The model answers the first question of each of the first validation records greedily, unless its answer has weight 0,
from the prompt that ``minicpmv chat`` would use. Training is unaffected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from minicpmv.data.records.answers import cut_before, find_answers
from minicpmv.data.records.inline_images import image_names
from minicpmv.data.records.record import Record, quote
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.errors import DataError
from minicpmv.evaluation.measuring.asking import describe_films
from minicpmv.files.atomic_files import write_whole
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import LoadedModel
from minicpmv.inference.predicting import Answering, Prediction
from minicpmv.inference.questions import Question
from minicpmv.models.networks.cached_slices import is_sharded
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.monitoring.validation_answers import AsTrained

__all__ = ["Samples"]


class _Question(NamedTuple):
    record: Record
    """The record, cut after the answer that is asked for."""
    max_slice_nums: int
    of_answers: int
    """Number of answers of the whole record."""


class Samples:
    """Asks a model in training, and writes its answers to a file.

    Args:
        datasets: The validation records of each set; at least one.
        num_records: How many of the first records of each set are asked.
        max_new_tokens: Longest answer.
        batch_size: Records answered at once.
        path: The file: one line for each step and record, in order.
    """

    def __init__(
        self,
        datasets: Sequence[ConversationDataset],
        *,
        num_records: int,
        max_new_tokens: int,
        batch_size: int,
        path: Path,
    ) -> None:
        self._processor = datasets[0].processor
        self._settings = GenerationSettings(max_new_tokens=max_new_tokens)
        self._questions = [
            question for dataset in datasets for question in islice(_first_questions(dataset), num_records)
        ]
        self._batch_size = batch_size
        self._path = path
        self._step = -1

    def take(self, model: nn.Module, *, step: int, is_leader: bool) -> list[str]:
        """Ask the model after this step, once per step.

        Args:
            model: The model itself, bare or wrapped by PEFT, without an engine around it, in evaluation mode and in
                the precision of training. With sharded weights every process asks, otherwise only the leader.
            step: Number of optimizer steps done.
            is_leader: Whether this process writes.

        Returns:
            A line for each record to print, on the leader.

        Raises:
            ImageError: An image is no longer readable.
        """
        if step == self._step or not (is_leader or is_sharded(model)):
            return []
        self._step = step
        found = list(zip(self._questions, self._ask(model), strict=True))
        if not is_leader:
            return []
        _replace_from(self._path, step, [_describe(step, question, said, self._processor) for question, said in found])
        return [_shorten(step, question, said) for question, said in found]

    def _ask(self, model: Any) -> list[Prediction]:
        every = [
            Question(number, question.record, question.max_slice_nums)
            for number, question in enumerate(self._questions)
        ]
        batches = (every[start : start + self._batch_size] for start in range(0, len(every), self._batch_size))
        loaded = LoadedModel("", "", model, self._processor)
        return list(chain.from_iterable(Answering(settings=self._settings)(loaded, batches)))


def _first_questions(dataset: ConversationDataset) -> Iterator[_Question]:
    """Yield records cut after their first answer, with as many slices and frames as in evaluation."""
    records = AsTrained(dataset)
    for index in range(len(dataset)):
        try:
            record = records[index]
            fit = dataset.fit(index, record)
        except DataError:  # skipped, or reported, by the loss evaluation
            continue
        places = find_answers(record)
        yield _Question(cut_before(record, places[0]), fit.max_slice_nums, len(places))


def _describe(step: int, question: _Question, said: Prediction, processor: MiniCPMVProcessor) -> dict[str, Any]:
    films = describe_films(question.record, processor)
    line = {
        "step": step,
        "record": question.record.where(),
        "images": image_names(question.record.images),
        **({"videos": films} if films else {}),
        "question": said.question,
        "expected": said.reference,
        "answer": said.answer,
    }
    return line | ({"of_answers": question.of_answers} if question.of_answers > 1 else {})


def _shorten(step: int, question: _Question, said: Prediction) -> str:
    share = f" (the first of its record's {question.of_answers} answers)" if question.of_answers > 1 else ""
    told = f"{quote(said.question)} -> {quote(said.answer)}, expected {quote(said.reference)}"
    return f"sample at step {step}: {told}{share}"


def _replace_from(path: Path, step: int, lines: Sequence[dict[str, Any]]) -> None:
    """Append lines to those of earlier steps, replacing the rest: a resumed run revisits steps that it has logged."""
    kept: list[str] = []
    with suppress(FileNotFoundError):
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] < step]
    added = [json.dumps(line, ensure_ascii=False) for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(f"{line}\n" for line in [*kept, *added]))
