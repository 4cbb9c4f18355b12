"""Generates the answers of a model in training to validation records, divided among its processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.record import Record
from minicpmv.data.records.sequences import LazySequence
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.samples.length_policy import plan_films
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import LoadedModel
from minicpmv.inference.predicting import Answering, Prediction
from minicpmv.inference.questions import choose, plan_questions
from minicpmv.models.networks.cached_slices import is_sharded
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.distributed.processes import raise_together

__all__ = ["AsTrained", "ValidationAnswers"]


class AsTrained(LazySequence[Record]):
    """Holds the records of a data set that fit, their films with the frames that fit.

    Args:
        dataset: The data set. Its other records are not asked for.
    """

    def __init__(self, dataset: ConversationDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def _item(self, index: int) -> Record:
        record = self._dataset.records[index]
        if not record.films:
            return record
        films = plan_films(record, self._dataset.processor)
        return replace(record, film_plans=tuple(self._dataset.fit(index, record).shown(films)))


class ValidationAnswers:
    """Generates the last answer of each record greedily.

    Args:
        records: Validation records that end with the answer to generate.
        max_slice_nums: Most tiles of each record's pictures.
        processor: The checkpoint's.
        max_new_tokens: Longest answer.
        batch_size: Records that a process answers at once.
    """

    def __init__(
        self,
        records: Sequence[Record],
        max_slice_nums: Sequence[int],
        *,
        processor: MiniCPMVProcessor,
        max_new_tokens: int,
        batch_size: int,
    ) -> None:
        self._records = records
        self._max_slice_nums = max_slice_nums
        self._processor = processor
        self._settings = GenerationSettings(max_new_tokens=max_new_tokens)
        self._batch_size = batch_size
        self._plan: list[NDArray[np.int64]] = []

    def take(self, model: Any, *, rank: int, num_processes: int, between: Callable[[], None]) -> list[Prediction]:
        """Answer the records, and return this process's answers, with their positions among the records.

        With sharded weights each process answers all of them, otherwise its own share. Every process must call it.

        Args:
            model: The model itself, bare or wrapped by PEFT, without an engine around it, in evaluation mode and in the
                precision of training.
            rank: Rank of this process.
            num_processes: Number of processes that call it.
            between: Called on every process after each batch.

        Raises:
            ImageError: An image is no longer readable.
            MemoryShortageError: There is no room for a record.
        """
        raise_together(self._measure)
        is_shared = is_sharded(model)
        mine = self._plan if is_shared else self._plan[rank::num_processes]
        num_rounds = len(self._plan) if is_shared else -(-len(self._plan) // num_processes)
        questions = (choose(self._records, each.tolist(), max_slice_nums=self._max_slice_nums) for each in mine)
        loaded = LoadedModel("", "", model, self._processor)
        found: list[Prediction] = []
        with closing(Answering(settings=self._settings)(loaded, questions)) as answered:
            for _ in range(num_rounds):  # some have nothing left in the last round
                raise_together(lambda: found.extend(next(answered, [])))
                between()
        return sorted(found, key=lambda said: said.index)

    def _measure(self) -> None:
        """Divide the records into batches, once, since that requires their lengths."""
        self._plan = self._plan or plan_questions(
            self._processor,
            self._records,
            settings=self._settings,
            batch_size=self._batch_size,
            max_slice_nums=self._max_slice_nums,
        )
