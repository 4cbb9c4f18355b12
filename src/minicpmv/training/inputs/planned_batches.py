"""Carries planned batches through transformers' and accelerate's loading: which records, in which epoch, on which rank.

``data.batches`` makes the plan of every run; here it becomes a batch sampler, which accelerate deals out to processes
and which a resumed run continues. transformers' own sampler is never used, because accelerate then repeats records to
fill up the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import seed_worker

from minicpmv.data.batches.grouping import BatchPlanner, LengthGrouper
from minicpmv.data.batches.plan import Rows
from minicpmv.data.batches.row_planner import RowPlanner, Together
from minicpmv.data.samples.length_report import LengthReport
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.wording import counted

__all__ = [
    "BatchPlan",
    "EpochTeller",
    "PlannedBatches",
    "StepPlan",
    "count_steps",
    "describe_plan",
    "describe_step",
    "estimate_costs",
    "make_loader",
    "plan_batches",
    "rows_known_here",
]

_STUCK = 900.0
"""Seconds without a batch after which data workers count as stuck: half of torch's timeout between processes, so that
the process whose workers are stuck can report it."""

Collate = Callable[[Sequence[dict[str, Tensor]]], dict[str, Tensor]]


class BatchPlan(Protocol):
    """A plan of every epoch: each has the same number of batches, a multiple of R processes; batch n goes to n % R."""

    @property
    def num_rows(self) -> int:
        """Number of batches of an epoch, over all processes."""
        ...

    def rows(self, epoch: int) -> Rows:
        """Return the batches of an epoch, in the order in which they are trained."""
        ...

    def own_rows(self, epoch: int) -> Rows | None:
        """Return this process's batches of an epoch, where all processes plan it together; each must call it then.

        None where each plans the batches of all.
        """
        ...


def rows_known_here(plan: BatchPlan, epoch: int) -> Rows:
    """Return the batches of an epoch that this process knows: its own where all plan together, else those of all.

    Every process must call it.
    """
    own = plan.own_rows(epoch)
    return plan.rows(epoch) if own is None else own


class PlannedBatches(Sampler[list[int]]):
    """A batch sampler that follows a plan.

    It gives the batches of all processes, since accelerate counts through them. Where processes share the planning, a
    process knows its own batches, and those of the others are empty here.

    Args:
        plan: Of the batches.
        rank: Of this process, for which accelerate takes every batch n with n % R = ``rank``.
    """

    def __init__(self, plan: BatchPlan, *, rank: int = 0) -> None:
        self._plan = plan
        self._rank = rank
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are given next; accelerate calls this by its name."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._plan.num_rows

    def __iter__(self) -> Iterator[list[int]]:
        own = self._plan.own_rows(self._epoch)
        return iter(self._plan.rows(self._epoch)) if own is None else self._among_others(own)

    def _among_others(self, own: Rows) -> Iterator[list[int]]:
        number = self._plan.num_rows // len(own)
        for row in own:
            yield from [[]] * self._rank
            yield row
            yield from [[]] * (number - self._rank - 1)


@dataclass
class EpochTeller(TrainerCallback):
    """Sets a batch sampler's epoch.

    Trainer does so itself, but not through the two wrappers around the sampler when a run of several processes resumes
    in the middle of an epoch. This may go when it does.
    """

    sampler: PlannedBatches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch of the batches: a resumed run begins in the middle of the run, not at epoch 0."""
        self.sampler.set_epoch(int(state.epoch or 0))


def plan_batches(
    run: RunArguments,
    args: TrainingArguments,
    num_records: int,
    *,
    lengths: LengthReport | None,
    costs: npt.NDArray[np.float32] | None,
    together: Together | None = None,
) -> RowPlanner | BatchPlanner:
    """Plan the batches of a run.

    Args:
        run: Whether rows are packed.
        args: Number of processes and batch size. With packing, a row holds as many tokens as a batch of that many rows
            of ``pack_length``.
        num_records: Size of the data.
        lengths: Token counts of the records; None only where batches do not depend on them.
        costs: Cost of each record, see :func:`estimate_costs`.
        together: Connects the processes that share the planning of packed rows, see ``RowPlanner``.

    Raises:
        ConfigError: ``dataloader_drop_last`` leaves nothing to train on.
    """
    shuffle = args.train_sampling_strategy != "sequential"
    seed = args.seed if args.data_seed is None else args.data_seed
    if run.packing:
        assert lengths is not None, "without lengths, arguments turn packing off"
        return RowPlanner(
            lengths.lengths,
            capacity=(run.pack_length or run.model_max_length) * args.per_device_train_batch_size,
            costs=costs,
            num_ranks=args.world_size,
            seed=seed,
            shuffle=shuffle,
            patches=lengths.num_patches,
            max_patches=_most_patches(run, lengths, args.per_device_train_batch_size),
            together=together,
        )
    common: dict[str, Any] = {
        "batch_size": args.per_device_train_batch_size,
        "num_ranks": args.world_size,
        "seed": seed,
        "drop_last": args.dataloader_drop_last,
    }
    if args.train_sampling_strategy == "group_by_length":
        assert lengths is not None, "arguments refuse it without lengths"
        return LengthGrouper(lengths.lengths, **common)
    return BatchPlanner(num_records, shuffle=shuffle, **common)


class StepPlan(NamedTuple):
    """The average content of an optimizer step over an epoch."""

    records: int
    """Optimizer steps of an epoch."""
    steps_per_epoch: int
    records_per_step: float
    tokens_per_step: float | None
    """Tokens of a step; None with ``--check_first false``, where they are unknown."""


def _most_patches(run: RunArguments, lengths: LengthReport, num_rows: int) -> int | None:
    """Return the most patches of a row that holds so many rows of ``pack_length``; None without a bound."""
    if run.pack_patches is not None:
        return run.pack_patches * num_rows
    if lengths.patches_per_token is None:
        return None
    return int((run.pack_length or run.model_max_length) * num_rows * lengths.patches_per_token)


def describe_plan(plan: RowPlanner | BatchPlanner, args: TrainingArguments, lengths: LengthReport | None) -> StepPlan:
    """Count what an optimizer step holds on all processes together, and the steps of an epoch."""
    batches = args.gradient_accumulation_steps * args.world_size
    num_steps = -(-plan.num_rows // batches)
    tokens = None if lengths is None else float(np.mean(lengths.lengths)) * plan.num_records / num_steps
    return StepPlan(plan.num_records, num_steps, plan.num_records / num_steps, tokens)


def describe_step(plan: RowPlanner | BatchPlanner, args: TrainingArguments, lengths: LengthReport | None) -> str:
    """Describe an optimizer step and the epoch's number of steps in one line."""
    size, num_batches = args.per_device_train_batch_size, args.gradient_accumulation_steps * args.world_size
    step = describe_plan(plan, args, lengths)
    tokens = "" if step.tokens_per_step is None else f"{step.tokens_per_step:,.0f} tokens"
    if isinstance(plan, RowPlanner):
        rows = f"{counted(min(num_batches, plan.num_rows), 'packed row')} of up to {plan.capacity} tokens"
        held = f"{rows} ({plan.fill:.1%} full), about {step.records_per_step:.3g} records and {tokens}"
    else:
        records = counted(min(size * num_batches, plan.num_records), "record")
        held = f"{records} in padded batches of {size}{tokens and f', about {tokens}'}"
    return f"each step: {held}; an epoch has {counted(step.steps_per_epoch, 'step')}"


def count_steps(plan: BatchPlan, args: TrainingArguments, *, epochs: float | None = None) -> int:
    """Count the optimizer steps of a run, or of ``epochs`` epochs, as Trainer does."""
    steps_per_epoch = -(-plan.num_rows // (args.gradient_accumulation_steps * args.world_size))
    if epochs is None and args.max_steps > 0:
        return args.max_steps
    return math.ceil((args.num_train_epochs if epochs is None else epochs) * steps_per_epoch)


def estimate_costs(lengths: LengthReport, config: Any, *, scale_resolution: int) -> npt.NDArray[np.float32]:
    """Estimate the work of each record in language-model tokens: its own, and the tower's work on its images.

    A layer multiplies each token or patch by each of its weights, and in attention by the tokens before it, or by the
    patches of its slice. Every slice has about ``scale_resolution`` squared pixels.
    """
    vision, text = config.vision_config, config.text_config
    side = scale_resolution // vision.patch_size
    patches_per_token = config.token_rule.patches_each(side)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = 2 * text.hidden_size * head * (text.num_attention_heads + text.num_key_value_heads)
    if getattr(text, "num_experts", 0):  # a token goes through those that are chosen for it, and one that all share
        inner = text.num_experts_per_tok * text.moe_intermediate_size + text.shared_expert_intermediate_size
    else:
        inner = text.intermediate_size
    per_token = text.num_hidden_layers * (attention + 3 * text.hidden_size * inner)
    # Of two tokens the later one reads the earlier one: half of twice the pairs, once for keys and once for values.
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    per_pair = kinds.count("full_attention") * head * text.num_attention_heads
    tokens = np.asarray(lengths.lengths, np.float64)
    tokens += tokens**2 * (per_pair / per_token)
    per_layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * (vision.intermediate_size + side**2)
    weight = vision.num_hidden_layers * per_layer / per_token
    if lengths.patches_per_token is not None:  # frames that share a block cost the tower as much as others
        return (tokens + weight * lengths.num_patches).astype(np.float32)
    return (tokens + weight * patches_per_token * lengths.num_image_tokens).astype(np.float32)


def make_loader(
    dataset: Dataset[Any],
    sampler: PlannedBatches,
    args: TrainingArguments,
    collate: Collate,
    *,
    num_workers: int | None = None,
) -> DataLoader[Any]:
    """Make the data loader of planned batches.

    Args:
        dataset: The records.
        sampler: Chooses the records of each batch.
        args: Settings of the loader.
        collate: Joins the records of a batch.
        num_workers: Most data workers, without those that would get no batch; by default as the flags say.
    """
    meant = args.dataloader_num_workers if num_workers is None else num_workers
    num_workers = min(meant, max(1, len(sampler)))
    # Fields that older releases of transformers lack.
    newer = {
        name: getattr(args, f"dataloader_{name}")
        for name in ("in_order", "multiprocessing_context")
        if hasattr(args, f"dataloader_{name}")
    }
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers and num_workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor if num_workers else None,
        timeout=_STUCK if num_workers else 0,
        worker_init_fn=partial(seed_worker, num_workers=num_workers, rank=args.process_index),
        **newer,
    )
