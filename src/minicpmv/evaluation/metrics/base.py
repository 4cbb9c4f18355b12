"""Defines a metric: it reduces one record to a few numbers, and the numbers of all records to a value.

The numbers add up. So a set of any size is measured in constant memory, processes can share it, and a bootstrap
set, for a confidence interval, is a weighted sum. Your own metrics are subclasses, made without arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

__all__ = ["MeanMetric", "Metric", "Sample", "Statistics"]

Statistics = Sequence[float]
"""Numbers that a record contributes; equally many for every record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Holds one record as a metric sees it, without thoughts and surrounding white space on both sides."""

    question: str = ""
    answer: str = ""
    references: tuple[str, ...] = ()
    """Accepted answers, in the order of the record."""
    nats: float | None = None
    """Weighted sum of the loss of the record's trained tokens; None if it was not measured."""
    weight: float | None = None
    """Total weight of these tokens: their number unless some have a weight of their own."""


class Metric(ABC):
    """Measures answers in one way."""

    name: ClassVar[str]
    """Name on the command line and in the log: lower case, with underscores."""
    description: ClassVar[str]
    """Description in one line for the list of metrics."""
    is_share: ClassVar[bool] = True
    """Whether values are between 0 and 1 and shown in per cent."""
    higher_is_better: ClassVar[bool] = True
    needs_answers: ClassVar[bool] = True
    """Whether the model has to answer; the loss needs no answer."""
    needs_references: ClassVar[bool] = True
    """Whether a record without references cannot be measured."""
    expects: ClassVar[str] = "an answer that is known"
    """Requirement of a record to be measured, for the message when none meets it."""
    sees_all_first: bool = False
    """Whether ``prepare`` must be given every record before the first is measured."""
    takes_file: ClassVar[str] = ""
    """What a file named behind the metric (``NAME:FILE``) holds; empty if the metric takes none."""
    names_records: ClassVar[str] = ""
    """What is wrong with a record whose score is 1, for a line that names such records; empty: no such line."""

    def read_file(self, path: Path) -> None:  # noqa: B027 # only called where ``takes_file`` says something
        """Take in the file named behind the metric."""

    def prepare(self, sample: Sample) -> None:  # noqa: B027 # most metrics have nothing to take in
        """Take in the references of one record, whose answer may not be known yet."""

    @abstractmethod
    def measure(self, sample: Sample) -> Statistics | None:
        """Reduce a record to its numbers; None if the metric is undefined for it, and then it does not count."""

    @abstractmethod
    def value(self, sums: Statistics) -> float:
        """Return the metric's value from the summed numbers of some records.

        Args:
            sums: Sums over at least one record; those of a bootstrap set are weighted.
        """

    def score(self, statistics: Statistics) -> float:
        """Return the metric's value for a single record."""
        return self.value(statistics)


class MeanMetric(Metric):
    """Defines a metric whose value is the mean of one number per record."""

    @abstractmethod
    def rate(self, sample: Sample) -> float | None:
        """Return the record's number; None if the metric is undefined for it."""

    def measure(self, sample: Sample) -> Statistics | None:
        rated = self.rate(sample)
        return None if rated is None else (float(rated), 1.0)

    def value(self, sums: Statistics) -> float:
        total, count = sums
        return total / count
