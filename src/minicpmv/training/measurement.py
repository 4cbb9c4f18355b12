"""Measures before and after: the same validation records are answered by the base and by what training made of it.

Files as ``minicpmv eval --output`` writes them, which the report and ``minicpmv compare`` read. How many records is
bounded, since a large model answers a few in a second. Training goes on as if nobody had asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from minicpmv.data.answers import Answers
from minicpmv.data.dataset import ConversationDataset
from minicpmv.data.sequences import Selected
from minicpmv.errors import DataError, UsageError
from minicpmv.evaluation.asking import ask
from minicpmv.evaluation.comparison import compare
from minicpmv.evaluation.metrics.registry import find_metrics
from minicpmv.evaluation.score_files import open_replacing, read_answers, write_line
from minicpmv.evaluation.scores import Scorer, shown
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import LoadedModel
from minicpmv.models.known_slices import is_sharded
from minicpmv.report.run_directory import AFTER, BEFORE
from minicpmv.training.processes import gather, raise_together

__all__ = ["METRICS", "Measurement"]

METRICS = ("exact_match", "anls")
"""Word for word, and how near: of long answers the second says more."""
_MAX_NEW_TOKENS = 64
_BATCH = 8


class Measurement:
    """Lets a model that is being trained answer validation records, and writes the answers with their scores.

    Args:
        sets: The validation records of each set.
        num_records: How many of all of them are answered, spread evenly.
        directory: Of the run.
    """

    def __init__(self, sets: Mapping[str, ConversationDataset], *, num_records: int, directory: Path) -> None:
        self._directory = directory
        self._asked: list[tuple[ConversationDataset, int, int]] = []
        every = [(dataset, position) for dataset in sets.values() for position in range(len(dataset))]
        self.num_records = len(every)
        """There are to choose from."""
        for place in np.linspace(0, len(every) - 1, min(num_records, len(every))).round().astype(int).tolist():
            dataset, position = every[place]
            try:
                self._asked.append((dataset, position, dataset.fit(position).max_slice_nums))
            except DataError:  # passed over, or named, where the loss is measured
                continue

    @property
    def num_asked(self) -> int:
        """Records that are answered."""
        return len(self._asked)

    def before(self, model: nn.Module, *, rank: int, num_processes: int, between: Callable[[], None]) -> None:
        """Measure what the run starts from. Every process must call it, as with :meth:`after`."""
        (self._directory / AFTER).unlink(missing_ok=True)  # of an earlier run here
        self._measure(model, BEFORE, rank, num_processes, between)

    def after(self, model: nn.Module, *, rank: int, num_processes: int, between: Callable[[], None]) -> None:
        """Measure what the run leaves.

        Args:
            model: The model itself, bare or wrapped by PEFT, without an engine around it, in evaluation mode and in
                the precision of training. Where processes share its weights they answer all records together,
                otherwise each answers its own.
            rank: Of this process.
            num_processes: How many call it.
            between: Called on every process after each batch.

        Raises:
            ImageError: An image cannot be read any more.
        """
        self._measure(model, AFTER, rank, num_processes, between)

    def describe(self) -> list[str]:
        """Say what became of each metric, on the process that writes; nothing where there is no file from before."""
        before, after = str(self._directory / BEFORE), str(self._directory / AFTER)
        try:
            same = [each.key for each in read_answers(before)] == [each.key for each in read_answers(after)]
            found = compare(before, after, find_metrics(METRICS), seed=0, max_changes=0) if same else None
        except UsageError:  # the run goes on from one that did not measure
            found = None
        if found is None:
            return [f"{self.num_asked} validation records answered after training; before it nobody asked them"]
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
        is_shared = is_sharded(model)
        batches = [self._asked[start : start + _BATCH] for start in range(0, len(self._asked), _BATCH)]
        mine = list(range(len(batches))) if is_shared else list(range(rank, len(batches), num_processes))
        num_rounds = len(batches) if is_shared else -(-len(batches) // num_processes)
        lines: dict[int, dict[str, Any]] = {}
        for number in range(num_rounds):
            here = mine[number : number + 1]
            raise_together(
                lambda here=here: lines.update(
                    (each * _BATCH + place, line)
                    for each in here
                    for place, line in enumerate(_answer(model, batches[each]))
                )
            )
            between()
        for other in [] if is_shared else gather(lines):
            lines |= other
        if rank == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            with open_replacing(str(self._directory / name)) as file:
                for number in sorted(lines):
                    write_line(file, {**lines[number], "index": number})


def _answer(model: Any, asked: Sequence[tuple[ConversationDataset, int, int]]) -> list[dict[str, Any]]:
    """Answer records one by one where their images get other numbers of slices, otherwise together."""
    metrics = find_metrics(METRICS)
    scorer = Scorer(metrics)
    lines: list[dict[str, Any]] = []
    start = 0
    while start < len(asked):
        dataset, _, max_slice_nums = asked[start]
        end = start
        while end < len(asked) and asked[end][0] is dataset and asked[end][2] == max_slice_nums:
            end += 1
        records = Answers(Selected(dataset.records, np.array([position for _, position, _ in asked[start:end]])))
        loaded = LoadedModel("", "", model, dataset.processor)
        settings = GenerationSettings(max_new_tokens=_MAX_NEW_TOKENS, max_slice_nums=max_slice_nums)
        found = ask(loaded, records, metrics, settings=settings, batch_size=len(records), max_length=0)
        for (line, sample), record in zip(found, records, strict=True):
            lines.append({**line, "record": record.where(), "scores": scorer.add(sample)})
        start = end
    return lines
