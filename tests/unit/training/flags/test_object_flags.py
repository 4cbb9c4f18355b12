"""Flags that hold several settings for something else are refused in words, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.resolution import build_training_arguments, resolve_settings
from tests.machines import CPU

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o", "--use_lora", "true"]


def build(*given: str) -> None:
    build_training_arguments(resolve_settings(parse_arguments([*NEEDED, *given]), CPU).training)


@pytest.mark.parametrize(
    ("flag", "value", "more"),
    [
        ("lr_scheduler_kwargs", "{bad", ""),
        ("lr_scheduler_kwargs", "[1]", ""),
        ("lr_scheduler_kwargs", "nonsense", ""),
        ("lr_scheduler_kwargs", '{"nonsense": 1}', ""),
        ("lr_scheduler_kwargs", '{"num_cycles": "x"}', "--lr_scheduler_type cosine"),
        ("lr_scheduler_kwargs", '{"lr_end": 5}', "--lr_scheduler_type polynomial"),
        ("lr_scheduler_kwargs", "{}", "--lr_scheduler_type cosine_with_min_lr"),
        ("accelerator_config", '{"x": 1}', ""),
        ("accelerator_config", "/nowhere.json", ""),
        ("accelerator_config", "a\0b", ""),
        ("activation_checkpointing_kwargs", "5", "--activation_checkpointing true"),
        ("activation_checkpointing_kwargs", "{", "--activation_checkpointing true"),
        ("optim_args", "nonsense", "--optim sgd"),
        ("optim_args", "nonsense=1", "--optim sgd"),
        ("optim_args", "momentum=x", "--optim rmsprop"),
        ("optim_args", "momentum=-1", "--optim sgd"),
        ("liger_kernel_config", "{", ""),
        ("lr_scheduler_kwargs", '{"min_lr_rate": NaN}', "--lr_scheduler_type cosine_with_min_lr"),
        ("lr_scheduler_kwargs", '{"min_lr_rate": 1e999}', "--lr_scheduler_type cosine_with_min_lr"),
        ("optim_args", "momentum=nan", "--optim sgd"),
        ("activation_checkpointing_kwargs", '{"deep": [{"er": -Infinity}]}', "--activation_checkpointing true"),
        ("liger_kernel_config", '{"rope": NaN}', ""),
    ],
)
def test_nonsense_names_the_flag_what_was_found_and_what_helps(flag: str, value: str, more: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s)--{flag}\b.*: found .*, expected .*\n  fix: "):
        build(f"--{flag}={value}", *more.split())


def test_what_can_be_meant_is_accepted(tmp_path: Path) -> None:
    config = tmp_path / "accelerator.json"
    config.write_text('{"even_batches": false}', encoding="utf-8")
    build("--accelerator_config", str(config))
    build("--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr_rate": 0.1}')
    build("--optim", "rmsprop", "--optim_args", "momentum=0.5")
    for schedule in ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"):
        build("--lr_scheduler_type", schedule)
