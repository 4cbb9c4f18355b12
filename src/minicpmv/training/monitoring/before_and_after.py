"""Scores the same validation records before and after training: answered by the base, then by the trained model.

Writes the files of ``minicpmv eval --output``, which the report and ``minicpmv compare`` read. The number of records is
bounded, since a large model answers only a few per second. Training is unaffected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from minicpmv.data.records.answers import Answers
from minicpmv.data.records.sequences import Concatenated, Selected
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.errors import DataError, UsageError
from minicpmv.evaluation.comparison import compare
from minicpmv.evaluation.measuring.asking import describe_films, line_of
from minicpmv.evaluation.metrics.registry import find_metrics
from minicpmv.evaluation.score_files import open_replacing, read_answers, write_line
from minicpmv.evaluation.scores import Scorer, shown
from minicpmv.inference.predicting import Prediction
from minicpmv.models.networks.cached_slices import is_sharded
from minicpmv.report.run_directory import AFTER, BEFORE
from minicpmv.training.distributed.processes import gather
from minicpmv.training.monitoring.validation_answers import AsTrained, ValidationAnswers

__all__ = ["METRICS", "Measurement"]

METRICS = ("exact_match", "anls")
"""Exact match, and similarity, which says more about long answers."""
_MAX_NEW_TOKENS = 64


class Measurement:
    """Has a model in training answer validation records, and writes the answers with their scores.

    Args:
        sets: The validation records of each set; at least one.
        num_records: How many of all of them are answered, spread evenly.
        batch_size: Records that a process answers at once.
        directory: The run's directory.
    """

    def __init__(
        self, sets: Mapping[str, ConversationDataset], *, num_records: int, batch_size: int, directory: Path
    ) -> None:
        self._directory = directory
        every = [(dataset, position) for dataset in sets.values() for position in range(len(dataset))]
        self.num_records = len(every)
        """Number of validation records of all sets."""
        places = np.linspace(0, len(every) - 1, min(num_records, len(every))).round().astype(int).tolist()
        fitting = [each for each in map(_fit, (every[place] for place in places)) if each is not None]
        self._of_sets = [
            Answers(Selected(AsTrained(dataset), np.array(positions, dtype=np.int64)))
            for dataset in sets.values()
            for positions in [[position for of, position, _ in fitting if of is dataset]]
        ]
        self._asked = Concatenated(self._of_sets)
        self._processor = next(iter(sets.values())).processor
        self._answers = ValidationAnswers(
            self._asked,
            [max_slice_nums for _, _, max_slice_nums in fitting],
            processor=self._processor,
            max_new_tokens=_MAX_NEW_TOKENS,
            batch_size=batch_size,
        )

    @property
    def num_asked(self) -> int:
        """Number of records that are answered."""
        return len(self._asked)

    def before(self, model: nn.Module, *, rank: int, num_processes: int, between: Callable[[], None]) -> None:
        """Measure the model before training. Every process must call it, as with :meth:`after`.

        The arguments are those of ``ValidationAnswers.take``.
        """
        (self._directory / AFTER).unlink(missing_ok=True)  # left by an earlier run
        self._measure(model, BEFORE, rank, num_processes, between)

    def after(self, model: nn.Module, *, rank: int, num_processes: int, between: Callable[[], None]) -> None:
        """Measure the trained model."""
        self._measure(model, AFTER, rank, num_processes, between)

    def describe(self) -> list[str]:
        """Describe how each metric changed, on the process that writes; without a file from before, only the count."""
        before, after = str(self._directory / BEFORE), str(self._directory / AFTER)
        try:
            same = [each.key for each in read_answers(before)] == [each.key for each in read_answers(after)]
            found = compare(before, after, find_metrics(METRICS), seed=0, max_changes=0) if same else None
        except UsageError:  # resumed from a run that did not measure
            found = None
        if found is None:
            return [f"{self.num_asked} validation records answered after training; there are no answers from before it"]
        lines = [f"before and after training, {self.num_asked} of {self.num_records:,} validation records:"]
        for metric in find_metrics(METRICS):
            of_metric = found.differences[metric.name]
            values = [shown(metric, value) for value in (of_metric.first, of_metric.second)]
            name = metric.name.replace("_", " ")
            lines.append(f"  {name} {values[0]} -> {values[1]} ({of_metric.num_records} records)")
        if said := str(found.share):
            lines.append(f"  {said}")
        return lines

    def _measure(self, model: Any, name: str, rank: int, num_processes: int, between: Callable[[], None]) -> None:
        answered = self._answers.take(model, rank=rank, num_processes=num_processes, between=between)
        lines = dict(self._describe(answered))
        for other in [] if is_sharded(model) else gather(lines):
            lines |= other
        if rank == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            with open_replacing(str(self._directory / name)) as file:
                for number in sorted(lines):
                    write_line(file, {**lines[number], "index": number})

    def _describe(self, answered: Sequence[Prediction]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number and the line of each answer."""
        places = [answers.fields(number) for answers in self._of_sets for number in range(len(answers))]
        scorer = Scorer(find_metrics(METRICS))
        for said in answered:
            record = self._asked[said.index]
            line, sample = line_of(
                record, places[said.index], said.answer, films=describe_films(record, self._processor)
            )
            yield said.index, {**line, "record": record.where(), "scores": scorer.add(sample)}


def _fit(place: tuple[ConversationDataset, int]) -> tuple[ConversationDataset, int, int] | None:
    dataset, position = place
    try:
        return dataset, position, dataset.fit(position).max_slice_nums
    except DataError:  # skipped, or reported, by the loss evaluation
        return None
