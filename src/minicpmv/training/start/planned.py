"""Plans the batches and the rhythm of a run, and tells before its first step what it will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import TrainingArguments

from minicpmv.data.machine_copies import join
from minicpmv.data.sharing import Sharing, part_of
from minicpmv.training.distributed.console import notice, say
from minicpmv.training.distributed.together import work_together
from minicpmv.training.flags.resolution import describe_settings
from minicpmv.training.inputs.planned_batches import (
    BatchPlan,
    count_steps,
    describe_plan,
    describe_step,
    estimate_costs,
    plan_batches,
)
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.inputs.shared_memory import Workers, resolve_workers
from minicpmv.training.inputs.vision_cache import advise
from minicpmv.training.learning.effect import describe_little_effect, refuse_no_effect, shorten_warmup
from minicpmv.training.learning.parts import describe_recipe, format_parts
from minicpmv.training.monitoring.intervals import describe_rhythm, resolve_rhythm
from minicpmv.training.start.dry_run import DryRunChecks
from minicpmv.training.start.learner import Learner
from minicpmv.training.start.settled import Settled

__all__ = ["PlannedRun", "plan_run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run whose steps are known."""

    args: TrainingArguments
    """transformers' arguments, with the intervals that the number of steps gives."""
    batches: BatchPlan
    costs: npt.NDArray[np.float32] | None
    """Cost of each record; None if lengths are not known."""
    step: dict[str, Any]
    """Average content of an optimizer step, as ``run.json`` has it."""
    workers: Workers


def plan_run(
    settled: Settled, args: TrainingArguments, inputs: RunInputs, learner: Learner, checks: DryRunChecks
) -> PlannedRun:
    """Plan the run, and say what it will do. Every process must call it.

    Args:
        settled: The run.
        args: transformers' arguments.
        inputs: Its data.
        learner: Its model.
        checks: Prints what is found.

    Raises:
        MiniCPMVError: Nothing is left to train on, an evaluation lacks data, or no weight would change.
    """
    run = settled.run
    costs = _estimate_costs(inputs, learner.model)
    batches = plan_batches(run, args, len(inputs.train), lengths=inputs.lengths, costs=costs, together=work_together)
    args, notices = resolve_rhythm(settled.request, args, batches, sets=list(inputs.validation))
    args, shortened = shorten_warmup(args, num_steps=_count_steps(batches, args))
    for text in [*notices, *shortened]:
        notice(text)
    say(describe_settings(args, settled.machine, use_lora=run.use_lora))
    checks.report("batches", describe_step(batches, args, inputs.lengths))
    recipe = describe_recipe(learner.parts)
    checks.report("what learns", "\n".join([format_parts(learner.parts), *([recipe] if recipe else [])]))
    if inputs.validation and not run.dry_run:
        say(describe_rhythm(args))
    workers, notices = resolve_workers(
        settled.machine,
        args,
        learner.model.config,
        train=inputs.train,
        plan=batches,
        validation=inputs.validation,
        has_features=run.vision_cache is not None,
    )
    for text in notices:
        notice(text)
    _advise(settled, args, inputs, learner, batches)
    return PlannedRun(
        args=args,
        batches=batches,
        costs=costs,
        step=describe_plan(batches, args, inputs.lengths)._asdict(),
        workers=workers,
    )


def _count_steps(batches: BatchPlan, args: TrainingArguments) -> int:
    return 0 if args.max_steps == 0 else count_steps(batches, args)


def _estimate_costs(inputs: RunInputs, model: Any) -> npt.NDArray[np.float32] | None:
    report, slicing = inputs.lengths, inputs.train.processor.image_processor
    if report is None:
        return None

    def estimate(sharing: Sharing) -> npt.NDArray[np.float32]:
        part = report.part(part_of(len(report.lengths), sharing))
        return join([estimate_costs(part, model.config, scale_resolution=slicing.scale_resolution)], sharing)[0]

    return work_together(estimate)


def _advise(settled: Settled, args: TrainingArguments, inputs: RunInputs, learner: Learner, batches: BatchPlan) -> None:
    """Tell which flag would save work, and which steps change little; refuse those that change nothing."""
    per_step = args.gradient_accumulation_steps * args.world_size
    num_epochs = args.max_steps * per_step / batches.num_rows if args.max_steps > 0 else args.num_train_epochs
    has_images = inputs.lengths is not None and bool(inputs.lengths.num_image_tokens.any())
    advice = advise(settled.run, learner.model, has_images=has_images, num_epochs=num_epochs)
    num_steps = _count_steps(batches, args)
    trained = learner.trained
    refuse_no_effect(args, learner.rates, trained, num_steps=num_steps)
    little = describe_little_effect(args, learner.rates, trained, num_steps=num_steps)
    for text in [*([advice] if advice is not None else []), *little]:
        notice(text)
