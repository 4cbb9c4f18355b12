"""What data cost in a given model: tokens, slices and steps. Needs torch, unlike the rest of a survey.

No picture is decoded: texts and image sizes tell all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from minicpmv.data.dataset import ConversationDataset
from minicpmv.data.records import Record
from minicpmv.errors import DataError, Problem
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.slicing import plan_slices

__all__ = ["Lengths", "measure_lengths"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How the values of many things lie."""

    min: int
    median: float
    p95: int
    """The smallest value that 95 % do not exceed."""
    max: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """The records that fit, in tokens as they are trained on; and how many do not fit."""

    records: int
    tokens: Spread | None
    """Of a record; None where none fits."""
    total_tokens: int
    trained_share: float | None
    """Tokens with a label among all, 0 to 1."""
    slices_per_image: Spread | None
    """Overview included; None without images."""
    fewer_slices: int
    """Records whose images get fewer slices than the model would cut."""
    too_long: int
    """Records that do not fit with one slice per image either."""
    steps_per_epoch: int
    """Optimizer steps for ``batch_size`` records each, on all processes together."""
    batch_size: int


def measure_lengths(
    records: Sequence[Record],
    processor: MiniCPMVProcessor,
    *,
    max_length: int,
    max_slice_nums: int | None = None,
    batch_size: int = 1,
) -> tuple[Lengths, list[Problem]]:
    """Measure every record.

    Args:
        records: Sound ones, with image sizes.
        processor: The checkpoint's.
        max_length: Most tokens of a record.
        max_slice_nums: Most tiles per image; the checkpoint's own number if not given.
        batch_size: Records of one optimizer step.

    Returns:
        The measures, and one problem for each record that does not fit.
    """
    fitting, problems = list(records), list[Problem]()
    try:
        dataset = ConversationDataset(fitting, processor, max_length=max_length, max_slice_nums=max_slice_nums)
        report = dataset.check_lengths()
    except DataError as error:
        problems = list(error.problems)
        named = {problem.where for problem in problems}
        fitting = [record for record in records if record.where() not in named]
        dataset = ConversationDataset(fitting, processor, max_length=max_length, max_slice_nums=max_slice_nums)
        report = dataset.check_lengths()
    total = int(report.lengths.sum())
    lengths = Lengths(
        records=len(fitting),
        tokens=_spread(report.lengths.tolist()),
        total_tokens=total,
        trained_share=int(report.num_trained.sum()) / total if total else None,
        slices_per_image=_spread(_slices(dataset)),
        fewer_slices=report.num_reduced,
        too_long=len(problems),
        steps_per_epoch=math.ceil(len(fitting) / batch_size),
        batch_size=batch_size,
    )
    return lengths, problems


def _slices(dataset: ConversationDataset) -> list[int]:
    counts: Counter[tuple[tuple[int, int], int]] = Counter()  # sizes repeat
    for index, record in enumerate(dataset.records):
        most = dataset.fit(index).max_slice_nums
        counts.update((size, most) for size in record.image_sizes or ())
    slices: list[int] = []
    for ((width, height), most), count in counts.items():
        config = dataset.processor.image_processor.slice_config(most)
        slices += [plan_slices(width, height, config).num_slices] * count
    return slices


def _spread(values: Sequence[int]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    nearest_rank = math.ceil(0.95 * len(ordered)) - 1
    return Spread(min=ordered[0], median=median(ordered), p95=ordered[nearest_rank], max=ordered[-1])
