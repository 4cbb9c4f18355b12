"""Finds where a run begins: from its base, from an adapter, or from a checkpoint of the same run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainingArguments

from minicpmv.models.adapters.base_identity import BaseIdentity, follow_base
from minicpmv.models.checkpoints.downsampling import mode_in
from minicpmv.models.checkpoints.film_settings import film_settings_of
from minicpmv.training.checkpoints.fingerprint import take_fingerprint
from minicpmv.training.checkpoints.resume import ResumePoint, prepare_directory
from minicpmv.training.inputs.origin import compare_adapter
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.monitoring.run_record import describe_data, describe_split
from minicpmv.training.start.settled import Settled

__all__ = ["Beginning", "find_beginning"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """Holds where a run begins, and by what the checkpoints that it writes are known."""

    point: ResumePoint
    base: BaseIdentity
    """The weights below what is trained, as files of this run state them."""
    fingerprint: dict[str, Any]
    """Settings, base and data that decide the run's numbers, see :func:`take_fingerprint`."""
    overridden: list[str]
    """Differences from what it begins with, allowed by a flag."""


def find_beginning(
    settled: Settled, args: TrainingArguments, inputs: RunInputs, base: BaseIdentity, *, own_objective: str | None
) -> Beginning:
    """Decide where the run begins, and remove stale files from its directory. Every process must call it.

    Args:
        settled: The run.
        args: transformers' arguments.
        inputs: Its data.
        base: The base's weights, as they were found.
        own_objective: Name of the caller's objective, if it has one.

    Raises:
        UsageError: The directory holds another run's files.
        CheckpointError: A checkpoint is damaged, or this run cannot begin from it or from the adapter.
    """
    run = settled.run
    sources = describe_data(run.train_sources, inputs.contents)
    lengths = None if inputs.lengths is None else inputs.lengths.lengths
    fingerprint = take_fingerprint(run, args, base, sources, lengths, compilation=settled.compilation)
    fingerprint["validation_split"] = describe_split(inputs.split)
    if own_objective is not None:
        fingerprint["objective"] = own_objective
    point = prepare_directory(run, args, fingerprint, inputs.pictures)
    if inputs.pictures is not None:
        inputs.pictures.forget_names()
    overridden = [*point.overridden]
    if run.lora_weight_path and point.path is None:
        overridden += compare_adapter(run, base, args)
    earlier = point.path or run.lora_weight_path
    if earlier is not None and run.use_lora:
        base = follow_base(base, earlier)
    shown = film_settings_of(inputs.train.processor.image_processor)
    base = replace(
        base,
        downsample_mode=mode_in(inputs.config, inputs.version) or "",
        film_settings=json.dumps(shown) if shown else "",
    )
    return Beginning(point=point, base=base, fingerprint=fingerprint, overridden=overridden)
