"""Finds the DeepSpeed configuration that ``--deepspeed`` names: a file, or one of the shipped presets."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from minicpmv.errors import ConfigError

__all__ = ["PRESETS", "DeepSpeedChoice", "resolve_deepspeed"]

PRESETS = ("zero2", "zero3")
"""Shipped configurations: ``zero2`` shards optimizer and gradients, ``zero3`` the weights as well."""


class DeepSpeedChoice(NamedTuple):
    """A configuration, and what the user should know about how it was found."""

    config: dict[str, Any]
    notices: tuple[str, ...]


def resolve_deepspeed(name: str, *, on_cpu: bool) -> DeepSpeedChoice:
    """Read the configuration that ``--deepspeed`` names.

    A file wins. The official scripts' ``ds_config_zero2.json`` and ``ds_config_zero3.json``, absent here, mean the
    presets of the same stage.

    Args:
        name: The flag's value: ``zero2``, a path, or a JSON object.
        on_cpu: No accelerator: settings that would compile kernels at start are replaced by their equals.

    Raises:
        ConfigError: There is no such file or preset, or the file is not a JSON object.
    """
    notices: list[str] = []
    if name.lstrip().startswith("{"):
        config = _parse(name, where="--deepspeed")
    elif Path(name).is_file():
        config = _parse(Path(name).read_text(encoding="utf-8"), where=name)
    else:
        preset = Path(name).name.removesuffix(".json").removeprefix("ds_config_")
        if preset not in PRESETS:
            raise ConfigError(
                f"--deepspeed: found {name!r}, expected an existing file or one of {', '.join(PRESETS)}\n"
                "  fix: correct the path, or use a preset"
            )
        if name != preset:
            notices.append(f"--deepspeed {name}: no such file; using the shipped preset {preset!r}")
        text = (resources.files("minicpmv.training") / "deepspeed" / f"{preset}.json").read_text(encoding="utf-8")
        config = _parse(text, where=f"preset {preset}")
    if on_cpu:
        notices += _avoid_compiling(config)
    return DeepSpeedChoice(config, tuple(notices))


def _parse(text: str, *, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where}: found invalid JSON at line {error.lineno} column {error.colno} ({error.msg}), "
            "expected a DeepSpeed configuration\n  fix: correct the file"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: found {type(config).__name__}, expected a JSON object\n  fix: correct the file")
    return config


def _avoid_compiling(config: dict[str, Any]) -> list[str]:
    """DeepSpeed's own optimizers are C++ that it compiles at start, for minutes and only where a compiler is."""
    notices = []
    for block, instead in (("optimizer", "--optim"), ("scheduler", "--lr_scheduler_type")):
        if config.pop(block, None) is not None:
            notices.append(f"--deepspeed: its {block!r} block needs compiling on a CPU; {instead} is used instead")
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    return notices
