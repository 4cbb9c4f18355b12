"""What a metric is: it reduces one record to a few numbers, and the numbers of all records to a value.

The numbers add up. So a set of any size is measured in constant memory, processes can share it, and a set that is drawn
anew from it, for a confidence interval, is a weighted sum. Metrics of one's own are subclasses, made without arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["MeanMetric", "Metric", "Sample", "Statistics"]

Statistics = Sequence[float]
"""What a record contributes; as many numbers for every record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One record, as a metric sees it. Thoughts are left out on both sides, and white space around."""

    question: str = ""
    answer: str = ""
    references: tuple[str, ...] = ()
    """Answers that count as right, in the order of the record."""
    nats: float | None = None
    """Loss of the record's trained tokens, weighted and added up; None if nobody has measured it."""
    weight: float | None = None
    """What these tokens weigh together: their number where none has a weight of its own."""


class Metric(ABC):
    """A way to measure answers."""

    name: ClassVar[str]
    """As the command line and the log have it: a lower-case word, with underscores."""
    description: ClassVar[str]
    """One line for the list of metrics."""
    is_share: ClassVar[bool] = True
    """Whether values lie between 0 and 1 and are shown in per cent."""
    higher_is_better: ClassVar[bool] = True
    needs_answers: ClassVar[bool] = True
    """Whether the model has to answer. The loss does without."""
    needs_references: ClassVar[bool] = True
    """Whether a record without any cannot be measured."""
    expects: ClassVar[str] = "an answer that is known"
    """What a record has to hold to be measured, for the message when none does."""
    sees_all_first: ClassVar[bool] = False
    """Whether ``prepare`` must be given every record before the first is measured."""

    def prepare(self, sample: Sample) -> None:  # noqa: B027 # most metrics have nothing to take in
        """Take in the references of one record; its answer may not be known yet."""

    @abstractmethod
    def measure(self, sample: Sample) -> Statistics | None:
        """Reduce a record to its numbers; None if the metric has no meaning for it, and then it does not count."""

    @abstractmethod
    def value(self, sums: Statistics) -> float:
        """Say what the added numbers of some records amount to.

        Args:
            sums: Of at least one record; those of a set that is drawn anew are not whole numbers of records.
        """

    def score(self, statistics: Statistics) -> float:
        """Say what a record alone amounts to."""
        return self.value(statistics)


class MeanMetric(Metric):
    """A metric whose value is the mean of a number that each record has."""

    @abstractmethod
    def rate(self, sample: Sample) -> float | None:
        """Give the number; None if the metric has no meaning for the record."""

    def measure(self, sample: Sample) -> Statistics | None:
        rated = self.rate(sample)
        return None if rated is None else (float(rated), 1.0)

    def value(self, sums: Statistics) -> float:
        total, count = sums
        return total / count
