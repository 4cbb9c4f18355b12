"""Resolves ``--fsdp`` and ``--fsdp_config``. The sharding itself is ``training/distributed/fsdp.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minicpmv.errors import ConfigError, UsageError
from minicpmv.wording import FALSE, TRUE

__all__ = ["resolve_fsdp"]

# What a configuration may choose.
_EXAMPLE = """--fsdp_config '{"cpu_offload": true}', or a file that holds such an object"""
_FREE = ("cpu_offload", "reshard_after_forward")


_FIXED: dict[str, tuple[Any, str]] = {
    "version": (2, "FSDP1 is deprecated in transformers"),
    "state_dict_type": ("FULL_STATE_DICT", "a checkpoint holds whole weights, which load anywhere"),
    "cpu_ram_efficient_loading": (False, "the run hands the weights of the first process out itself"),
    "activation_checkpointing": (False, "--activation_checkpointing does it, with FSDP or without"),
}


def resolve_fsdp(settings: dict[str, Any], *, on_cpu: bool, has_accelerator: bool, num_processes: int) -> None:
    """Resolve ``fsdp`` and ``fsdp_config``.

    Args:
        settings: Keyword arguments for ``TrainingArguments``, changed here.
        on_cpu: The run computes on the CPU.
        has_accelerator: The machine has an accelerator, used or not.
        num_processes: Of the run.

    Raises:
        UsageError: Something asked for cannot be done, here or at all.
        ConfigError: ``--fsdp_config`` is neither a file nor a JSON object.
    """
    asked, written = settings.pop("fsdp", None), settings.pop("fsdp_config", None)
    word = str(asked or "").strip().lower()
    if word not in (*TRUE, *FALSE, ""):
        raise UsageError(f"--fsdp: found {asked!r}, expected true or false\n  fix: --fsdp true")
    if word in (*FALSE, ""):
        if written:
            raise UsageError("--fsdp_config: found without --fsdp, expected both\n  fix: add --fsdp true, or remove it")
        return
    if settings.get("deepspeed"):
        raise UsageError(
            "--fsdp --deepspeed: found both, expected one: both shard the model\n"
            '  fix: remove --fsdp, or add --deepspeed "" (the scripts set zero2 or zero3)'
        )
    if num_processes == 1:
        raise UsageError(
            "--fsdp true: found one process, expected several to shard the model over\n"
            "  fix: start several (--num_processes, GPUS_PER_NODE of the scripts), or remove --fsdp"
        )
    if on_cpu and has_accelerator:
        raise UsageError(
            "--fsdp true --use_cpu true: found an accelerator, expected none: torch would shard on it nevertheless\n"
            "  fix: hide it (CUDA_VISIBLE_DEVICES=), or remove one of the flags"
        )
    config = _read_config(written) if written else {}
    if on_cpu and config.get("cpu_offload"):
        raise UsageError("--fsdp_config: found cpu_offload on a CPU, expected an accelerator\n  fix: remove it")
    # Adapters and released layouts are saved from whole weights.
    settings |= {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT", **config}}


def _read_config(written: Any) -> dict[str, Any]:
    """Read a file or an object; some configurations have ``fsdp_`` before each name."""
    where = "--fsdp_config"
    content: Any = written
    if isinstance(written, str):
        if not written.lstrip().startswith("{"):
            where = written
            try:
                written = Path(written).read_text(encoding="utf-8")
            except OSError as error:
                raise ConfigError(
                    f"--fsdp_config: found {where!r}, expected an existing file or a JSON object\n  fix: {_EXAMPLE}"
                ) from error
        try:
            content = json.loads(written)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{where}: found invalid JSON at line {error.lineno} column {error.colno} ({error.msg}), expected an "
                f"object\n  fix: {_EXAMPLE}"
            ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: found {type(content).__name__}, expected a JSON object\n  fix: {_EXAMPLE}")
    config: dict[str, Any] = {}
    for name, value in content.items():
        bare = name.removeprefix("fsdp_")
        if bare in _FREE:
            if not isinstance(value, bool):
                raise UsageError(
                    f'{where}: found {name} {value!r}, expected true or false\n  fix: write "{name}": true'
                )
            config[bare] = value
        elif bare not in _FIXED:
            raise UsageError(
                f"{where}: found {name!r}, expected {' or '.join(_FREE)}: it belongs to FSDP1, or follows from the "
                f"model\n  fix: remove {name!r}"
            )
        elif value != _FIXED[bare][0]:
            expected, reason = _FIXED[bare]
            raise UsageError(
                f"{where}: found {name} {value!r}, expected {json.dumps(expected)}: {reason}\n  fix: remove {name!r}"
            )
    return config
