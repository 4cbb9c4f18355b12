"""Scores the answers of a model in training to validation records, at each evaluation.

The model generates the last answer of each record greedily, as in ``minicpmv eval``. Training is unaffected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from torch import nn

from minicpmv.data.records.answers import Answers
from minicpmv.data.records.sequences import Selected
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.errors import DataError, UsageError
from minicpmv.evaluation.measuring.asking import sample_of
from minicpmv.evaluation.metrics.base import Metric
from minicpmv.evaluation.scores import measure
from minicpmv.models.networks.cached_slices import is_sharded
from minicpmv.training.distributed.processes import gather
from minicpmv.training.monitoring.validation_answers import AsTrained, ValidationAnswers
from minicpmv.wording import counted

__all__ = [
    "EvalMetrics",
]


class EvalMetrics:
    """Computes metrics of a model in training.

    Args:
        dataset: The validation records.
        metrics: The metrics to compute.
        num_records: How many records are answered, the first ones; None: all.
        max_new_tokens: Longest answer.
        batch_size: Records that a process answers at once.

    Raises:
        UsageError: A metric applies to none of the records.
    """

    def __init__(
        self,
        dataset: ConversationDataset,
        metrics: Sequence[Metric],
        *,
        num_records: int | None,
        max_new_tokens: int,
        batch_size: int,
    ) -> None:
        self._metrics = [metric for metric in metrics if metric.needs_answers]
        self._of_loss = [metric for metric in metrics if not metric.needs_answers]
        fitting = list(islice(_fitting(dataset), num_records)) if self._metrics else []
        positions = np.array([position for position, _ in fitting], dtype=np.int64)
        self._asked = Answers(Selected(AsTrained(dataset), positions))
        self._answers = ValidationAnswers(
            self._asked,
            [max_slice_nums for _, max_slice_nums in fitting],
            processor=dataset.processor,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        self.share = self._asked.share
        """The share of the records' answers that are measured."""
        self._look_at_references()

    def measure(
        self, model: nn.Module, *, rank: int, num_processes: int, between: Callable[[], None]
    ) -> dict[str, float]:
        """Answer the records, and return the values by metric name. Every process must call it.

        The arguments are those of ``ValidationAnswers.take``.
        """
        sums: dict[str, list[float]] = {}
        for said in self._answers.take(model, rank=rank, num_processes=num_processes, between=between):
            sample = sample_of(self._asked[said.index], answer=said.answer)
            for metric in self._metrics:
                found = measure(metric, sample)
                if found is not None:
                    _add(sums, metric.name, found)
        for other in () if is_sharded(model) else _others(gather(sums), rank):
            for name, added in other.items():
                _add(sums, name, added)
        return {metric.name: metric.value(sums[metric.name]) for metric in self._metrics if metric.name in sums}

    def of_loss(self, nats: float, weight: float) -> dict[str, float]:
        """Return the metrics that depend on the loss alone."""
        return {metric.name: metric.value((nats, weight)) for metric in self._of_loss if weight}

    def _look_at_references(self) -> None:
        """Show the records to the metrics that need all of them first, and verify that each metric applies to one."""
        unmet = {metric.name: metric for metric in self._metrics}
        first = [metric for metric in self._metrics if metric.sees_all_first]
        for record in self._asked:
            if not (first or unmet):
                break
            sample = sample_of(record)
            for metric in first:
                metric.prepare(sample)
            unmet = {name: metric for name, metric in unmet.items() if measure(metric, sample) is None}
        for name, metric in unmet.items():
            raise UsageError(
                f"--eval_metrics {name}: found no record that it can measure among "
                f"{counted(len(self._asked), 'validation record')}, expected {metric.expects}\n  fix: add what is "
                "missing to the data, or leave the metric out"
            )


def _fitting(dataset: ConversationDataset) -> Iterator[tuple[int, int]]:
    """Yield the positions of records that fit, and the most tiles of their images."""
    for position in range(len(dataset)):
        try:
            yield position, dataset.fit(position).max_slice_nums
        except DataError:  # skipped, or reported, by the loss evaluation
            continue


def _others(sums: list[dict[str, list[float]]], rank: int) -> list[dict[str, list[float]]]:
    return [other for number, other in enumerate(sums) if number != rank]


def _add(sums: dict[str, list[float]], name: str, found: Sequence[float]) -> None:
    known = sums.get(name)
    sums[name] = list(found) if known is None else [ours + more for ours, more in zip(known, found, strict=True)]
