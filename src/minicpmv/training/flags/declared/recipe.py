"""Declares the recipe: what the command, Python, ``init`` and the scripts train with unless a flag says otherwise.

The scripts repeat these values as flags, as the official ones do; ``tests/docs/test_scripts.py`` compares them. A
setting of ours that no script names, such as ``lora_r``, has its value where it is declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MEASURED", "RECIPE_NAMES", "describe_value", "recipe_of", "sharding_of", "write_value"]

MEASURED = 32
"""Validation records that are answered before and after training."""

_ALL: Mapping[str, Any] = {
    "activation_checkpointing": True,
    "adam_beta2": 0.95,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-5,
    "lora_preset": "official",
    "lr_scheduler_type": "cosine",
    "measure": MEASURED,
    "num_train_epochs": 3.0,
    "per_device_eval_batch_size": 1,
    "per_device_train_batch_size": 1,
    "report_to": "tensorboard",
    "save_steps": 1000,
    "save_total_limit": 10,
    "warmup_steps": 0.01,
    "weight_decay": 0.1,
}
_LORA: Mapping[str, Any] = {"learning_rate": 1e-4}
# Preferences ask for much smaller rates, those of RLAIF-V (arXiv 2405.17220), and for larger steps.
_DPO: Mapping[str, Any] = {
    "gradient_accumulation_steps": 4,
    "learning_rate": 5e-7,
    "lora_preset": "adapters_only",
    "num_train_epochs": 1.0,
    "warmup_steps": 0.05,
    "weight_decay": 0.01,
}
_DPO_LORA: Mapping[str, Any] = {"learning_rate": 1e-5}

RECIPE_NAMES = frozenset(_ALL)


def recipe_of(objective: str, *, use_lora: bool) -> dict[str, Any]:
    """Return the values by the names of their settings.

    >>> recipe_of("sft", use_lora=True)["learning_rate"], recipe_of("dpo", use_lora=False)["learning_rate"]
    (0.0001, 5e-07)
    """
    if objective == "dpo":
        return {**_ALL, **_DPO, **(_DPO_LORA if use_lora else {})}
    return {**_ALL, **(_LORA if use_lora else {})}


def sharding_of(*, use_lora: bool) -> str:
    """Return the preset of DeepSpeed that the official scripts name, for several cards."""
    return "zero2" if use_lora else "zero3"


def describe_value(name: str) -> str:
    """Return what a setting of the recipe is, and where it is something else, for ``--help``.

    >>> describe_value("learning_rate")
    '1e-5, with LoRA 1e-4; with --objective dpo 5e-7, with LoRA 1e-5'
    >>> describe_value("weight_decay"), describe_value("adam_beta2")
    ('0.1; with --objective dpo 0.01', '0.95')
    """
    learned = [_describe_lora(name, objective) for objective in ("sft", "dpo")]
    return learned[0] if learned[0] == learned[1] else f"{learned[0]}; with --objective dpo {learned[1]}"


def _describe_lora(name: str, objective: str) -> str:
    full, lora = (write_value(recipe_of(objective, use_lora=use_lora)[name]) for use_lora in (False, True))
    return full if full == lora else f"{full}, with LoRA {lora}"


def write_value(value: Any) -> str:
    """Write a value as it is typed behind a flag or in a file of settings.

    >>> write_value(1e-5), write_value(3.0), write_value(True), write_value("cosine")
    ('1e-5', '3', 'true', 'cosine')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 1e-3 else f"{value:g}"
