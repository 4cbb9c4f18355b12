"""Says how to go on after numbers became NaN or infinite: from which checkpoint, and why not simply from the newest.

A resumed run repeats what comes behind its checkpoint, bit for bit, and may not have another learning rate. So going on
in the same way ends in the same place, and the way out is a new run.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import TrainingArguments

from minicpmv.training.checkpoints.manifest import find_fault
from minicpmv.training.checkpoints.staging import list_checkpoints

__all__ = ["way_out"]

_ADAPTER = "adapter_config.json"


def way_out(args: TrainingArguments, *, before: int) -> str:
    """Advise, naming a checkpoint only if its weights led to a finite loss.

    Args:
        args: Of the run.
        before: The first step whose weights are to blame, or may be; checkpoints of earlier steps are good.
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
        doubt = ", whose weights may be too large already," if newest not in good else ""
        advice += f". --resume_from_checkpoint true repeats the steps behind {newest.name}{doubt} and ends here again"
    return advice


def _belongs_to_changed_base(checkpoint: Path) -> bool:
    """Whether a checkpoint's LoRA started from a part of the base, so that it can be resumed and not loaded."""
    config = checkpoint / _ADAPTER
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("init_lora_weights") is not True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
