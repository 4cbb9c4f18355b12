"""What decides the course of a run: data, batches, what learns and how. A resumed run must have all of it as it was.

Where it has not, its second half would belong to another run than its first, or the flag would be passed over, as
transformers does with a learning rate: the checkpoint holds the schedule. How long a run is may change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

from minicpmv.training.arguments import RunArguments
from minicpmv.training.learning_flags import LearningArguments

__all__ = ["describe_course", "find_changes", "find_extension"]

_OF_RECORDS = (
    "max_slice_nums",
    "model_max_length",
    "on_bad_record",
    "on_long_record",
    "pack_length",
    "packing",
    "truncate_answers",
)
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
    "train_sampling_strategy",
    "warmup_steps",
    "weight_decay",
)
# Of the flags that say what learns: they change what is kept in memory, not what is computed; or only the beginning.
_WITHOUT_EFFECT = ("llm_activation_checkpointing", "lora_weight_path", "vision_activation_checkpointing")
_DATA = "data"
_LENGTH = ("max_steps", "num_train_epochs")


def describe_course(run: RunArguments, args: TrainingArguments, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collect it as JSON.

    Args:
        run: The flags, with every switch settled.
        args: As training has them.
        data: Every source of training data with the digest of its content, as ``run.json`` has it.
    """
    learning = {item.name for item in fields(LearningArguments)} - {*_WITHOUT_EFFECT}
    course = {name: getattr(run, name) for name in sorted(learning | {*_OF_RECORDS})}
    stated = args.to_dict()  # enumerations as plain words
    course |= {name: stated.get(name) for name in (*_OF_TRAINING, *_LENGTH)}
    course[_DATA] = [{"sha256": source["sha256"], "weight": source.get("weight", 1)} for source in data]
    return json.loads(json.dumps(course, default=str))


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what is other than it was, each with both values."""
    different = [
        name for name in sorted((before.keys() | now.keys()) - {*_LENGTH}) if before.get(name) != now.get(name)
    ]
    return [
        f"--{name}: {_word(before.get(name))} then, {_word(now.get(name))} now"
        if name != _DATA
        else "--data_path: the files hold something else now, or have other weights"
        for name in different
    ]


def find_extension(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs in the length of the run."""
    return [
        f"--{name}: {_word(before[name])} then, {_word(now[name])} now; from here on the schedule is the new run's"
        for name in _LENGTH
        if before.get(name) != now.get(name)
    ]


def _word(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).strip('"')
