"""What decides the course of a run: data, batches, what learns and how. A resumed run must have all of it as it was.

Where it has not, its second half would belong to another run than its first, or the flag would be passed over, as
transformers does with a learning rate: the checkpoint holds the schedule. How long a run is may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainingArguments

from minicpmv.errors import CheckpointError
from minicpmv.models.adapters.base_identity import BaseIdentity
from minicpmv.training.checkpoints.manifest import MANIFEST
from minicpmv.training.flags.arguments import RunArguments

__all__ = ["describe_course", "find_changes", "find_extension", "find_other_base", "find_other_lengths"]

_OF_TRAINING = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "data_seed",
    "dataloader_drop_last",
    "fp16",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "neftune_noise_alpha",
    "optim",
    "optim_args",
    "optim_target_modules",
    "per_device_train_batch_size",
    "seed",
    "tf32",
    "train_sampling_strategy",
    "warmup_steps",
    "weight_decay",
)
_FREE = (
    "allow_changed_images",
    "allow_other_base",
    "cache_dir",
    "check_first",
    "data_cache",
    "dry_run",
    "early_stopping",
    "eval_data_path",
    "answer_batch_size",
    "eval_max_new_tokens",
    "eval_metrics",
    "eval_metrics_records",
    "eval_sample_tokens",
    "eval_samples",
    "image_root",  # the pictures count by what they hold
    "keep_best",
    "llm_activation_checkpointing",
    "llm_type",
    "logging_dir",
    "lora_preset",  # every part has an answer of its own
    "lora_weight_path",  # decides the beginning alone
    "max_bad_share",
    "measure",
    "num_processes",  # the world's size is compared
    "overwrite_output_dir",
    "verify_saved",
    "report",
    "save_dtype",
    "save_rounding",
    "vision_activation_checkpointing",
    "vision_cache",
    "vision_cache_gb",
)
"""Our own flags that change no number of training: a new flag counts until it is named here."""
_ELSEWHERE = ("compilation", "data_path", "model_name_or_path", "validation_split")
"""Our own flags that count by what they name, or by another name."""
_DATA = "data"
_BASE = "base_model"
_LENGTHS = "record_lengths"
_LENGTH = ("max_steps", "num_train_epochs")


def describe_course(
    run: RunArguments,
    args: TrainingArguments,
    base: BaseIdentity,
    data: Sequence[Mapping[str, Any]],
    lengths: NDArray[np.int32] | None,
) -> dict[str, Any]:
    """Collect it as JSON.

    Args:
        run: The flags, with every switch settled.
        args: As training has them.
        base: What the run starts from.
        data: Every source of training data with the digest of its content, as ``run.json`` has it.
        lengths: Tokens of each record, from which batches are planned; None if they are not known.
    """
    counted = {item.name for item in fields(run)} - {*_FREE, *_ELSEWHERE}
    course = {name: getattr(run, name) for name in sorted(counted)}
    stated = args.to_dict()  # enumerations as plain words
    course |= {name: stated.get(name) for name in (*_OF_TRAINING, *_LENGTH)}
    course["torch_compile"] = run.compilation
    course[_BASE] = asdict(base)
    course[_LENGTHS] = None if lengths is None else hashlib.sha256(lengths.astype("<i4").tobytes()).hexdigest()
    course[_DATA] = [{"sha256": source["sha256"], "weight": source.get("weight", 1)} for source in data]
    return json.loads(json.dumps(course, default=str))


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what is other than it was, each with both values."""
    compared = (before.keys() | now.keys()) - {*_LENGTH, _BASE, _LENGTHS}
    different = [name for name in sorted(compared) if before.get(name) != now.get(name)]
    return [
        f"--{name}: {_word(before.get(name))} then, {_word(now.get(name))} now"
        if name != _DATA
        else "--data_path: the files hold something else now, or have other weights"
        for name in different
    ]


def find_other_base(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Name both bases if they are not one, and say whether one's weights have their places in the other."""
    try:
        then, here = BaseIdentity(**before[_BASE]), BaseIdentity(**now[_BASE])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{MANIFEST}: found a base model that no run writes down ({error}), expected its name and digests\n"
            "  fix: resume from another checkpoint"
        ) from error
    difference = then.find_difference(here)
    if difference is None:
        return None
    return f"--model_name_or_path: {then} then, {here} now, {difference}", then.shapes == here.shapes


def find_other_lengths(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say that records have other lengths than they had, and so other batches; None if not, or if one does not know."""
    if None in (before[_LENGTHS], now[_LENGTHS]) or before[_LENGTHS] == now[_LENGTHS]:
        return None
    return "records have other numbers of tokens than then, so the rest of the epoch has other batches"


def find_extension(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs in the length of the run."""
    return [
        f"--{name}: {_word(before[name])} then, {_word(now[name])} now; from here on the schedule is the new run's"
        for name in _LENGTH
        if before.get(name) != now.get(name)
    ]


def _word(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).strip('"')
