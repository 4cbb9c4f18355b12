"""Checks a run before it starts (``--dry_run``): everything up to the first step, then two steps on the costliest row.

The run's own code does it. The two steps run in a temporary folder: the first allocates the optimizer's state, the
second has it together with the activations, so the memory peak is the real one. Evaluation, saving and the final
verification are not covered.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from minicpmv.data.batches.plan import Rows
from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.devices.memory import total_memory
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.files.disk_space import DiskError, free_bytes
from minicpmv.files.scratch import scratch_folder
from minicpmv.machine.system import num_launched
from minicpmv.training.checkpoints.checkpoint_size import estimate_bytes, num_elements
from minicpmv.training.checkpoints.resume import ResumePoint
from minicpmv.training.distributed.console import is_first_process, notice, say
from minicpmv.training.distributed.processes import gather, raise_together
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.base_checkpoint import dtype_to_save
from minicpmv.training.inputs.planned_batches import BatchPlan, count_steps, rows_known_here
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.learning.parts import is_lora_tensor
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.training.monitoring.progress import RunProgress, memory_gib
from minicpmv.wording import counted, format_bytes, format_seconds

__all__ = ["DryRunChecks", "require_room", "take_dry_run"]

_CHECKS = ("flags", "data", "lengths", "directory", "weights", "batches", "what learns", "one step", "memory", "disk")


class DryRunChecks:
    """Prints numbered check results in a dry run, and in a real run only those that every run prints."""

    def __init__(self, *, is_dry: bool) -> None:
        self._is_dry = is_dry
        self._left = list(_CHECKS)

    def passed(self, name: str, text: str) -> None:
        """Print a check's result in a dry run."""
        if self._is_dry:
            assert self._left.pop(0) == name, f"{name} is out of order"
            number = f"{len(_CHECKS) - len(self._left)}/{len(_CHECKS)} {name}"
            say(f"{number} ... ok\n{text}" if "\n" in text else f"{number}: {text} ... ok")

    def report(self, name: str, text: str) -> None:
        """Print a check's result in every run."""
        if self._is_dry:
            self.passed(name, text)
        else:
            say(text)

    def data(self, inputs: RunInputs) -> None:
        """Report the number of records, their lengths, and what happens to overlong ones."""
        held_out = f", {inputs.num_validation:,} to evaluate" if inputs.validation else ""
        skipped = f", {len(inputs.skipped):,} skipped" if inputs.skipped else ""
        found = ", no problem" if inputs.lengths is not None else ", checked when they are read"
        self.passed("data", f"{len(inputs.train):,} records to train on{held_out}{skipped}{found}")
        if inputs.lengths is None:
            self.passed("lengths", "not known (--check_first false)")
            return
        lengths, report = inputs.lengths.lengths, inputs.lengths
        cut = f", {report.num_cut:,} lose the end of an answer" if report.num_cut else ""
        self.passed(
            "lengths",
            f"{lengths.min():,} to {lengths.max():,} tokens, {lengths.mean():,.0f} on average, "
            f"{report.num_trained.sum() / lengths.sum():.0%} trained; {report.num_reduced:,} get fewer slices{cut}",
        )

    def directory(self, output_dir: str, start: ResumePoint) -> None:
        """Report what the output directory holds; a run that may not use it was refused before."""
        found = "" if Path(output_dir).exists() else ", new"
        checkpoints = list_checkpoints(output_dir)
        if start.path is not None:
            found = f", the run would resume from {Path(start.path).name}"
        elif checkpoints:
            found = f", --overwrite_output_dir would delete {counted(len(checkpoints), 'earlier checkpoint')}"
        self.passed("directory", f"{output_dir}{found}")

    def weights(self, model: Any, base: Path) -> None:
        """Report that the weights were loaded, which refuses missing and unexpected tensors."""
        self.passed("weights", f"every tensor of {base} in its place, {str(model.dtype).removeprefix('torch.')}")


def take_dry_run(
    checks: DryRunChecks,
    build_trainer: Callable[[BatchPlan, TrainingArguments], MiniCPMVTrainer],
    *,
    plan: BatchPlan,
    costs: npt.NDArray[np.float32] | None,
    inputs: RunInputs,
    run: RunArguments,
    args: TrainingArguments,
) -> dict[str, Any]:
    """Take two steps on the costliest row, and report what a run will need. Every process must call it.

    Args:
        checks: Prints the results.
        build_trainer: Makes the trainer of a run with a plan and transformers' arguments.
        plan: The run's plan of batches.
        costs: Cost of each record, in tokens; None if lengths are not known.
        inputs: The run's inputs.
        run: The flags.
        args: transformers' arguments.

    Returns:
        The figures of the report.

    Raises:
        MiniCPMVError: A step fails, or memory or disk space is too small.
    """
    row, share = _find_costliest(plan, costs, inputs)
    num_steps = count_steps(plan, args)
    room = _Room(args.output_dir or "", _count_kept(args, num_steps, plan))
    with scratch_folder("dry-run") as folder:
        trainer, seconds = _take_two_steps(build_trainer, row, inputs, args, str(folder), plan.num_rows)
    first = trainer.state.log_history[0]
    tokens = "" if inputs.lengths is None else f" and {int(inputs.lengths.lengths[row].sum()):,} tokens"
    gradient = f", gradient {first['grad_norm']:.3g}" if "grad_norm" in first else ""
    checks.passed(
        "one step",
        f"{trainer.args.gradient_accumulation_steps * args.world_size} x the costliest row, of "
        f"{counted(len(row), 'record')}{tokens}: "
        f"loss {first['loss']:.4f}{gradient}, {seconds:.2f} s; the run's {num_steps:,} steps take roughly "
        f"{format_seconds(seconds * share * num_steps)}, without evaluation and saving",
    )
    peak = _check_memory(checks, args)
    needed = _check_disk(checks, trainer, room, inputs, run)
    say("Dry run: all checks passed, and --output_dir is unchanged; the same command without --dry_run trains.")
    return {"steps": num_steps, "loss": first["loss"], "seconds": seconds, "memory_gib": peak, "disk_bytes": needed}


@dataclass(frozen=True, slots=True)
class _SameRow:
    """A plan that repeats one row."""

    row: list[int]
    num_rows: int

    def rows(self, epoch: int) -> Rows:
        records = np.tile(np.asarray(self.row, dtype=np.int32), self.num_rows)
        return Rows.of_sizes(records, np.full(self.num_rows, len(self.row)))

    def own_rows(self, epoch: int) -> None:
        pass


class _Stopwatch(TrainerCallback):
    """Measures how long the last step took; the end-of-step collective has already waited for the device."""

    seconds = math.nan
    _started = math.nan

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self._started


class _Costliest(NamedTuple):
    """The costliest of some rows, and what their mean cost is made of."""

    cost: float
    row: list[int]
    total: float
    number: int


def _find_costliest(
    plan: BatchPlan, costs: npt.NDArray[np.float32] | None, inputs: RunInputs
) -> tuple[list[int], float]:
    """Return the costliest row of the first epoch, and the ratio of an average row's cost to it."""
    found = gather(_costliest_of(rows_known_here(plan, 0), costs, inputs, pads=not isinstance(plan, RowPlanner)))
    costliest = max(found, key=lambda each: each.cost)
    total, number = sum(each.total for each in found), sum(each.number for each in found)
    return costliest.row, total / number / costliest.cost


def _costliest_of(rows: Rows, costs: npt.NDArray[np.float32] | None, inputs: RunInputs, *, pads: bool) -> _Costliest:
    filled = np.flatnonzero(rows.sizes)
    if not len(filled):
        return _Costliest(0.0, [], 0.0, 0)
    if costs is None or inputs.lengths is None:
        return _Costliest(1.0, rows[int(filled[0])], 1.0, 1)
    starts = rows.bounds[:-1][filled]
    of_rows = np.add.reduceat(costs[rows.records], starts)
    if pads:  # padding costs as much as tokens
        lengths = inputs.lengths.lengths[rows.records]
        of_rows += rows.sizes[filled] * np.maximum.reduceat(lengths, starts) - np.add.reduceat(lengths, starts)
    place = int(of_rows.argmax())
    return _Costliest(
        float(of_rows[place]), rows[int(filled[place])], float(of_rows.sum(dtype=np.float64)), len(filled)
    )


def _take_two_steps(
    build_trainer: Callable[[BatchPlan, TrainingArguments], MiniCPMVTrainer],
    row: list[int],
    inputs: RunInputs,
    args: TrainingArguments,
    folder: str,
    num_rows: int,
) -> tuple[MiniCPMVTrainer, float]:
    args = copy.copy(args)  # building it again would set up devices and DeepSpeed again
    args.output_dir = folder
    args.max_steps, args.logging_steps = 2, 1
    # A step has no more rows than a step of the run itself, however many were asked for.
    args.gradient_accumulation_steps = min(args.gradient_accumulation_steps, -(-num_rows // args.world_size))
    args.logging_strategy, args.eval_strategy = IntervalStrategy.STEPS, IntervalStrategy.NO
    args.save_strategy, args.load_best_model_at_end, args.eval_on_start = SaveStrategy.NO, False, False
    if inputs.train.skip_log is not None:
        inputs.train.skip_log = dataclasses.replace(inputs.skip_log, path=Path(folder, "skipped.jsonl"))
    trainer = build_trainer(_SameRow(row, 2 * args.gradient_accumulation_steps * args.world_size), args)
    for tracker in get_reporting_integration_callbacks(args.report_to):
        trainer.remove_callback(tracker)
    trainer.remove_callback(RunProgress)
    stopwatch = _Stopwatch()
    trainer.add_callback(stopwatch)
    trainer.train()
    return trainer, stopwatch.seconds


def _check_memory(checks: DryRunChecks, args: TrainingArguments) -> float:
    """Report the memory peak of the two steps, which evidently fitted, and the total memory."""
    peaks = gather(memory_gib())
    total = total_memory(args.device) / 2**30
    if args.device.type == "cuda":
        reserved, beside = (max(each) for each in zip(*gather(_measure_around(args.device)), strict=True))
        told = (
            f"peak {max(peaks):.2f} GiB of tensors and {reserved:.2f} GiB reserved for them, plus {beside:.2f} GiB "
            f"for others (CUDA, NCCL, other programs), on each of {counted(len(peaks), 'GPU')} with {total:.1f} GiB"
        )
    else:
        local = peaks[: num_launched("LOCAL_WORLD_SIZE")]
        processes = counted(len(local), "process", "processes")
        told = f"peak {sum(local):.2f} GiB in {processes} of the machine's {total:.1f} GiB"
    checks.passed("memory", f"{told}, optimizer state included")
    return max(peaks)


def _measure_around(device: torch.device) -> tuple[float, float]:
    """Return a GPU's peak memory reserved for tensors, and the memory used otherwise, in GiB."""
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_reserved(device) / 2**30, beside / 2**30


@dataclass(frozen=True, slots=True)
class _Room:
    """The directory of a run, and the largest number of checkpoints in it at one time."""

    output_dir: str
    num_checkpoints: int


def _count_kept(args: TrainingArguments, num_steps: int, plan: BatchPlan) -> int:
    """Return the largest number of checkpoints at one time, including the one written before the oldest is deleted."""
    strategy = SaveStrategy(args.save_strategy)
    if strategy == SaveStrategy.NO:
        return 0
    interval = args.save_steps if args.save_steps >= 1 else math.ceil(num_steps * args.save_steps)
    if strategy == SaveStrategy.EPOCH:
        interval = count_steps(plan, args, epochs=1)
    num_saves = math.ceil(num_steps / interval)
    return num_saves if not args.save_total_limit else min(num_saves, args.save_total_limit + 1)


def _check_disk(
    checks: DryRunChecks, trainer: MiniCPMVTrainer, room: _Room, inputs: RunInputs, run: RunArguments
) -> int:
    model: Any = trainer.model
    one = estimate_bytes(model, None if trainer.is_deepspeed_enabled else trainer.optimizer)
    final = _num_bytes_saved(model, run, inputs)
    needed = room.num_checkpoints * one + final
    free = free_bytes(Path(room.output_dir))
    number = counted(room.num_checkpoints, "checkpoint")

    def check() -> None:
        if free < needed:
            raise DiskError(
                f"--output_dir {room.output_dir}: found {free:,} bytes free, expected {needed:,}: "
                f"{number} of {one:,} and {final:,} for what is saved at the end\n"
                "  fix: free space, choose another disk, or lower --save_total_limit"
            )

    raise_together(check)
    checks.passed(
        "disk",
        f"{format_bytes(needed)} of {format_bytes(free)} free: {number} of {format_bytes(one)}, {format_bytes(final)} "
        "saved at the end",
    )
    return needed


def require_room(trainer: MiniCPMVTrainer, inputs: RunInputs, run: RunArguments) -> None:
    """Make sure, before the first step, that what the run saves at its end has room. Every process must call it.

    Checkpoints are looked at when they are written, and a notice says if not even one has room.

    Raises:
        DiskError: It has none, and the training would be lost.
    """
    place = trainer.args.output_dir or ""
    model: Any = trainer.model
    final = _num_bytes_saved(model, run, inputs)
    free = free_bytes(Path(place))

    def check() -> None:
        if is_first_process() and free < final:
            raise DiskError(
                f"--output_dir {place}: found {free:,} bytes free there, expected {final:,} for what is saved at the "
                "end\n  fix: make room, or choose another disk"
            )

    raise_together(check)
    one = estimate_bytes(model, None)
    if free < final + one and not trainer.args.save_only_model:
        notice(
            f"--output_dir {place}: found {free:,} bytes free there, expected {final + one:,}: about {one:,} for a "
            f"checkpoint and {final:,} for what is saved at the end"
        )


def _num_bytes_saved(model: Any, run: RunArguments, inputs: RunInputs) -> int:
    named = list(model.named_parameters())
    if not run.use_lora:
        own = sum(num_elements(parameter) for _, parameter in named) * dtype_to_save(run, inputs.config).itemsize
        return own + (model.carried.num_bytes if model.carried is not None else 0)
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}
    size = sum(num_elements(parameter) * parameter.element_size() for parameter in trained.values())
    # Weights trained outside LoRA are saved twice: in the adapter, and for the official loading snippet.
    beside = [parameter for name, parameter in trained.items() if not is_lora_tensor(name)]
    return size + sum(num_elements(parameter) * parameter.element_size() for parameter in beside)
