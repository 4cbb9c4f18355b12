"""Decides at the start of training how many layers are recomputed, by the memory that is then free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from minicpmv.devices.memory import free_memory
from minicpmv.machine.system import num_launched
from minicpmv.training.distributed.console import notice, say
from minicpmv.training.distributed.processes import gather
from minicpmv.training.inputs.planned_batches import BatchPlan, rows_known_here
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.learning.recomputation import RecomputedLayers, asked_of_parts
from minicpmv.training.start.footprint.keeping import USED, choose_recomputed
from minicpmv.training.start.footprint.memory import Prediction
from minicpmv.training.start.footprint.rows import heaviest, heaviest_rows
from minicpmv.training.start.footprint.subject import Subject
from minicpmv.training.start.settled import Settled
from minicpmv.wording import format_bytes

__all__ = ["recomputed_layers"]


def recomputed_layers(
    settled: Settled,
    *,
    inputs: RunInputs,
    config: Any,
    plan: BatchPlan,
    args: TrainingArguments,
) -> RecomputedLayers:
    """Make what switches recomputation on and off, with ``auto`` by the memory that is free when training begins.

    Args:
        settled: The run.
        inputs: Its data.
        config: Its model's.
        plan: Its batches.
        args: transformers' arguments.
    """
    run = settled.run
    asked = asked_of_parts(run)
    if "auto" not in asked.values():
        return RecomputedLayers(asked=asked)

    def choose(optimizer: Any) -> Mapping[str, int]:
        slicing = inputs.train.processor.image_processor
        side = slicing.scale_resolution // slicing.patch_size
        of_slice = config.token_rule.count((side, side))
        known = rows_known_here(plan, 0)
        rows = heaviest_rows(known, inputs.lengths, of_slice=of_slice, is_packed=bool(run.packing))
        rows = heaviest([row for of_process in gather(rows) for row in of_process])
        subject = Subject(base=settled.base, run=run, settings=settled.settings, num_devices=args.world_size)
        with torch.random.fork_rng(devices=[]):  # tracing draws numbers, and those of the run are its own
            prediction = Prediction(subject, rows, patches=(side, side), seen={})
        # Processes of one machine that compute on its processor share its memory.
        free = free_memory(args.device) // (1 if args.device.type == "cuda" else num_launched("LOCAL_WORLD_SIZE"))
        choice = choose_recomputed(prediction, asked, free=free, there=_state_bytes(optimizer))
        say(
            f"recomputed: {choice}; a step needs {format_bytes(choice.needed)} of {format_bytes(free)} that are free, "
            "as predicted for the longest rows"
        )
        if choice.needed > free * USED:
            notice(
                f"--activation_checkpointing auto: a step may need more memory than {USED:.0%} of what is free; "
                "`minicpmv estimate` with the same flags says which others need less"
            )
        found = gather(dict(choice.recomputed))
        return {part: max(each[part] for each in found) for part in choice.recomputed}

    return RecomputedLayers(asked=asked, choose=choose)


def _state_bytes(optimizer: Any) -> int:
    """Count what an optimizer holds already, as that of a resumed run does."""
    states = [] if optimizer is None else optimizer.state.values()
    tensors = [each for state in states for each in state.values() if isinstance(each, torch.Tensor)]
    return sum(each.untyped_storage().nbytes() for each in tensors)
