"""Advises how to continue after numbers became NaN or infinite: from which checkpoint, and why not the newest.

A resumed run repeats the steps after its checkpoint, bit for bit, and may not change the learning rate. So resuming
fails at the same step again, and the way out is a new run.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import TrainingArguments

from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.manifest import find_fault

__all__ = ["way_out"]

_ADAPTER = "adapter_config.json"


def way_out(args: TrainingArguments, *, before: int) -> str:
    """Recommend a new run, from a checkpoint only if its weights led to a finite loss.

    Args:
        args: The run's arguments.
        before: The first step whose weights may be at fault; checkpoints of earlier steps are good.
    """
    checkpoints = list_checkpoints(args.output_dir or "")
    good = [path for path in checkpoints if _step(path) < before and find_fault(path) is None]
    usable = [path for path in good if not _belongs_to_changed_base(path)]
    advice = (
        f"train with a lower --learning_rate (it was {args.learning_rate:g}) or a longer --warmup_steps (it was "
        f"{args.warmup_steps:g}), in another --output_dir"
    )
    if usable:
        flag = "--lora_weight_path" if (usable[-1] / _ADAPTER).is_file() else "--model_name_or_path"
        advice += f", from the beginning or from the weights of the last good checkpoint ({flag} {usable[-1]})"
    else:
        advice += ", from the beginning: no checkpoint of this run is known to be a good start"
    if checkpoints:
        newest = checkpoints[-1]
        doubt = ", whose weights may already be too large," if newest not in good else ""
        advice += f". --resume_from_checkpoint true repeats the steps after {newest.name}{doubt} and fails here again"
    return advice


def _belongs_to_changed_base(checkpoint: Path) -> bool:
    """Return whether a checkpoint's LoRA was initialised from the base, so that it can be resumed but not loaded."""
    config = checkpoint / _ADAPTER
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("init_lora_weights") is not True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
