"""Determines the rows of a run: those planned from its data, or the worst that its flags allow."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.errors import UsageError
from minicpmv.models.networks.flops import Work
from minicpmv.training.inputs.planned_batches import describe_plan, estimate_costs, plan_batches
from minicpmv.training.inputs.run_inputs import RunInputs, open_inputs
from minicpmv.training.start.footprint.rows import heaviest_rows
from minicpmv.training.start.footprint.stages import Row
from minicpmv.training.start.footprint.subject import Subject

__all__ = ["Workload", "plan_workload"]

_MARKS = 2
"""Number of tokens around each slice's image tokens."""
_TILES = 9
"""Most slices of an image in every release, without the overview."""
_SCALE = 448
"""Pixels. Side of a square with as many pixels as a slice, in every release."""


class Workload(NamedTuple):
    """The work of a run."""

    heaviest: list[Row]
    """The rows that may need most memory."""
    patches: tuple[int, int]
    """Rows and columns of a slice."""
    epoch: Work | None
    """Work of an epoch on all processes; None without data."""
    steps: int | None
    """Optimizer steps of an epoch; None without data."""
    records: int | None
    step: Work
    """Work of one optimizer step on all processes: on average, or without data of the heavier worst row."""


def plan_workload(subject: Subject, config: Any, *, has_data: bool) -> Workload:
    """Plan an epoch, or without data the worst rows.

    Raises:
        MiniCPMVError: The data cannot be trained on, or ``--check_first false`` leaves their lengths unknown.
    """
    side = _SCALE // config.vision_config.patch_size
    if not has_data:
        return _worst(subject, config, (side, side))
    if not subject.run.check_first:
        raise UsageError(
            "--check_first false: found with data, whose lengths decide what rows hold, expected true\n"
            "  fix: remove it, or leave the data out to estimate the worst row"
        )
    settings = subject.settings
    seed = settings.get("data_seed")
    inputs = open_inputs(
        subject.run, subject.base, settings["output_dir"], seed=settings.get("seed", 42) if seed is None else seed
    )
    return _of_data(subject, config, inputs)


def _micro_batches(subject: Subject) -> int:
    return int(subject.settings.get("gradient_accumulation_steps") or 1) * subject.num_devices


def _worst(subject: Subject, config: Any, patches: tuple[int, int]) -> Workload:
    """Make a row of trained text, and one of as many slices as fit, whose other tokens are trained."""
    run, size = subject.run, int(subject.settings["per_device_train_batch_size"])
    longest = run.pack_length or run.model_max_length if run.packing else run.model_max_length
    tiles = run.max_slice_nums or _TILES
    slices_of_image = tiles + 1 if tiles > 1 else 1
    of_slice = config.token_rule.count(patches)
    fitting = longest // (of_slice + _MARKS)
    whole = fitting // slices_of_image * slices_of_image or fitting
    rows = [Row(longest * size, longest * size, 0)]
    if whole:
        rows.append(Row(longest * size, (longest - whole * of_slice) * size, whole * size))
    works = [_work(row.tokens, size * longest**2, row.labelled_tokens, row.slices, patches, 1) for row in rows]
    step = Work(*(each * _micro_batches(subject) for each in works[-1]))
    return Workload(rows, patches, None, None, None, step)


def _work(tokens: int, pairs: int, labelled: int, slices: int, patches: tuple[int, int], batches: int) -> Work:
    of_slice = math.prod(patches)
    return Work(
        tokens=tokens,
        token_pairs=pairs,
        labelled_tokens=labelled,
        patches=slices * of_slice,
        patch_pairs=slices * of_slice**2,
        blocks=slices,
        image_batches=batches if slices else 0,
    )


def _of_data(subject: Subject, config: Any, inputs: RunInputs) -> Workload:
    slicing = inputs.train.processor.image_processor
    side = slicing.scale_resolution // slicing.patch_size
    lengths = inputs.lengths
    assert lengths is not None, "they are unknown with --check_first false only"
    args: Any = SimpleNamespace(**{**_PLANNED, **subject.settings}, world_size=subject.num_devices)
    costs = estimate_costs(lengths, config, scale_resolution=slicing.scale_resolution)
    plan = plan_batches(subject.run, args, len(inputs.train), lengths=lengths, costs=costs)
    rows = plan.rows(0)
    described = describe_plan(plan, args, lengths)
    tokens, trained = lengths.lengths.astype(np.int64), lengths.num_trained.astype(np.int64)
    of_slice = config.token_rule.count((side, side))
    slices = lengths.num_image_tokens.astype(np.int64) // of_slice
    with_image = sum(1 for row in rows if slices[row].any())
    epoch = _work(
        int(tokens.sum()), int((tokens**2).sum()), int(trained.sum()), int(slices.sum()), (side, side), with_image
    )
    step = Work(*(round(each / described.steps_per_epoch) for each in epoch))
    heaviest = heaviest_rows(rows, lengths, of_slice=of_slice, is_packed=isinstance(plan, RowPlanner))
    return Workload(heaviest, (side, side), epoch, described.steps_per_epoch, described.records, step)


_PLANNED: dict[str, Any] = {
    "train_sampling_strategy": "random",
    "seed": 42,
    "data_seed": None,
    "dataloader_drop_last": False,
    "gradient_accumulation_steps": 1,
}
"""transformers' defaults of the arguments that determine a plan."""
