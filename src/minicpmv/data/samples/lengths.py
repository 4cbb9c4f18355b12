"""Measures data for a given model: tokens, slices, packed rows and steps. Unlike the rest of a survey, it needs torch.

No picture is decoded: texts and image sizes suffice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.records.record import Record
from minicpmv.data.samples.compared import Comparison
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.samples.length_policy import Fit, plan_films
from minicpmv.data.samples.length_report import patches_per_token
from minicpmv.errors import DataError, Problem
from minicpmv.processing.films.plan import word_times
from minicpmv.processing.pictures.slicing import plan_slices
from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["Lengths", "PackedRows", "Spread", "measure_lengths", "padding_share", "plan_rows", "spread"]

_SEED = 42
"""Of the order of records: transformers' own default, so that a run without ``--seed`` plans these rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Summarises the distribution of many values."""

    min: int
    median: float
    p95: int
    """The smallest value that 95 % do not exceed."""
    max: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """An epoch of packed rows, as training plans it for one process."""

    pack_length: int
    """Tokens that a row can hold."""
    rows: int
    fill: float
    """Real tokens among all that the rows can hold, 0 to 1."""
    steps_per_epoch: int
    """Optimizer steps of ``batch_size`` rows each."""


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
    frames_per_film: Spread | None
    """Frames that are shown of a film; None without films."""
    first_film: str | None
    """The first film, and the times of its frames."""
    fewer_slices: int
    """Records whose images get fewer slices than the model would cut."""
    fewer_frames: int
    """Records whose films show fewer frames, or more of them in a block, than the model would be shown."""
    too_long: int
    """Records that do not fit with one slice per image either."""
    batch_size: int
    """Packed rows of one optimizer step on all processes together; without packing, records."""
    packed: PackedRows | None
    """None where no record fits."""
    steps_per_epoch: int
    """Optimizer steps without packing."""
    padding_in_batches_of_4: float | None
    """Padding among the tokens of shuffled batches of four records without packing, 0 to 1; None where none fits."""


def measure_lengths(
    records: Sequence[Record],
    processor: MiniCPMVProcessor,
    *,
    max_length: int,
    max_slice_nums: int | None = None,
    batch_size: int = 1,
    pack_length: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Lengths, list[tuple[int, Problem]]]:
    """Measure every record.

    Args:
        records: Sound ones, with image sizes.
        processor: The checkpoint's.
        max_length: Most tokens of a record.
        max_slice_nums: Most tiles per image; the checkpoint's own number if not given.
        batch_size: Rows or records of one optimizer step.
        pack_length: Most tokens of a packed row, at least ``max_length``; ``max_length`` if not given.
        on_progress: Called with the number of records measured and of all.

    Returns:
        The measures, and for each record that does not fit its position and its problem.
    """
    dataset = ConversationDataset(
        records,
        processor,
        max_length=max_length,
        max_slice_nums=max_slice_nums,
        comparison=Comparison(kind=None),
    )
    problems: list[tuple[int, Problem]] = []
    measured = np.zeros((len(dataset), 3), dtype=np.int32)  # all and trained tokens, patches; 0 where one does not fit
    uses: Counter[tuple[tuple[int, int], int]] = Counter()  # sizes repeat
    frames: list[int] = []
    first_film: str | None = None
    num_reduced = num_thinned = 0
    for index, record in enumerate(dataset.records):
        fit = _fit(dataset, index, record, problems)
        if fit is not None:
            measured[index] = fit.length, fit.num_trained, fit.num_patches
            num_thinned += fit.max_frames > 0
            num_reduced += fit.wanted > fit.length and not fit.max_frames
            plans = fit.shown(plan_films(record, processor))
            frames += [len(plan.times) for plan in plans]
            if plans and first_film is None:
                first_film = f"{record.films[0].name}: {word_times(plans[0].times)}"
            uses.update((size, fit.max_slice_nums) for size in record.image_sizes or ())
        if on_progress is not None:
            on_progress(index + 1, len(dataset))
    tokens = measured[measured[:, 0] > 0]
    total, num_trained, _ = tokens.sum(axis=0, dtype=np.int64).tolist()
    lengths = Lengths(
        records=len(tokens),
        tokens=spread(tokens[:, 0]) if len(tokens) else None,
        total_tokens=total,
        trained_share=num_trained / total if total else None,
        slices_per_image=spread(_slices(uses, processor)) if uses else None,
        frames_per_film=spread(np.array(frames)) if frames else None,
        first_film=first_film,
        fewer_slices=num_reduced,
        fewer_frames=num_thinned,
        too_long=len(problems),
        batch_size=batch_size,
        packed=_plan(dataset, tokens, pack_length or max_length, batch_size) if len(tokens) else None,
        steps_per_epoch=math.ceil(len(tokens) / batch_size),
        padding_in_batches_of_4=padding_share(tokens[:, 0], 4) if len(tokens) else None,
    )
    return lengths, problems


def _fit(dataset: ConversationDataset, index: int, record: Record, problems: list[tuple[int, Problem]]) -> Fit | None:
    try:
        return dataset.fit(index, record)
    except DataError as error:
        problems += [(index, problem) for problem in error.problems]
        return None


def _slices(uses: Counter[tuple[tuple[int, int], int]], processor: MiniCPMVProcessor) -> np.ndarray:
    """Return the slices of each image, overview included, given how often each size has each limit of tiles."""
    numbers: list[int] = []
    for (width, height), most in uses:
        config = processor.image_processor.slice_config(most)
        numbers.append(plan_slices(width, height, config).num_slices)
    return np.repeat(np.array(numbers, dtype=np.int64), list(uses.values()))


def _plan(dataset: ConversationDataset, tokens: np.ndarray, pack_length: int, batch_size: int) -> PackedRows:
    patches_each = patches_per_token(dataset.processor)
    most = None if patches_each is None else int(pack_length * patches_each)
    return plan_rows(tokens[:, 0], pack_length, batch_size, patches=tokens[:, 2], max_patches=most)


def plan_rows(
    lengths: np.ndarray,
    pack_length: int,
    batch_size: int,
    *,
    patches: np.ndarray | None = None,
    max_patches: int | None = None,
) -> PackedRows:
    """Plan an epoch of packed rows.

    Args:
        lengths: Tokens of each record, one or more.
        pack_length: Most tokens of a row.
        batch_size: Rows of a step.
        patches: Patches of each record.
        max_patches: Most patches of a row.
    """
    planner = RowPlanner(lengths, capacity=pack_length, seed=_SEED, patches=patches, max_patches=max_patches)
    return PackedRows(
        pack_length=pack_length,
        rows=planner.num_rows,
        fill=planner.fill,
        steps_per_epoch=math.ceil(planner.num_rows / batch_size),
    )


def padding_share(lengths: np.ndarray, batch_size: int) -> float:
    """Shuffle records into batches, each padded to its longest record, and return the share of padding."""
    order = np.random.default_rng(_SEED).permutation(len(lengths))
    batches = [lengths[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    return 1 - int(lengths.sum()) / sum(int(batch.max()) * len(batch) for batch in batches)


def spread(values: np.ndarray) -> Spread:
    """Summarise one or more values."""
    ordered = np.sort(values)
    nearest_rank = math.ceil(0.95 * len(ordered)) - 1
    return Spread(
        min=int(ordered[0]), median=float(np.median(ordered)), p95=int(ordered[nearest_rank]), max=int(ordered[-1])
    )
