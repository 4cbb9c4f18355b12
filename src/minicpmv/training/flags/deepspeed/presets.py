"""Finds the DeepSpeed configuration that ``--deepspeed`` names: a file, or one of the shipped presets."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from minicpmv.errors import ConfigError
from minicpmv.machine.tools import refuse_without_tools
from minicpmv.machine.value import Machine

__all__ = ["PRESETS", "DeepSpeedChoice", "check_compiled", "offloads_optimizer", "resolve_deepspeed"]

_COMPILED = ("adam", "adamw", "lamb", "lion")
"""Optimizers that DeepSpeed implements in C++; for Adam it can use torch's as well."""

_GATHERS = "stage3_gather_16bit_weights_on_model_save"

PRESETS = ("zero1", "zero2", "zero3", "zero2-offload", "zero3-offload")
"""Shipped configurations: ``zero1`` shards the optimizer, ``zero2`` gradients and ``zero3`` the weights as well.

With ``-offload`` the optimizer, and with ZeRO-3 the weights too, are kept in the machine's memory. Only these leave
``zero_force_ds_cpu_optimizer`` open: on a machine with a GPU accelerate then uses DeepSpeed's CPU Adam, which reads and
writes half precision itself and is compiled once. Without a GPU it is switched off, as in the other presets, and
torch's own optimizer runs: nothing is compiled.
"""


class DeepSpeedChoice(NamedTuple):
    """A configuration, and notices on how it was found."""

    config: dict[str, Any]
    notices: tuple[str, ...]


def resolve_deepspeed(name: str, *, on_cpu: bool) -> DeepSpeedChoice:
    """Read the configuration that ``--deepspeed`` names.

    An existing file has precedence. The official scripts' ``ds_config_zero2.json`` and ``ds_config_zero3.json``, which
    do not exist here, mean the presets of the same stage, and ``ds_config_zero3_offload.json`` the one with offload.

    Args:
        name: The flag's value: ``zero2``, a path, or a JSON object.
        on_cpu: No accelerator: settings that would compile kernels at start are replaced by equivalent ones.

    Raises:
        ConfigError: There is no such file or preset, or the file is not a JSON object.
    """
    notices: list[str] = []
    if name.lstrip().startswith("{"):
        config = _parse(name, where="--deepspeed")
    elif Path(name).is_file():
        config = _parse(Path(name).read_text(encoding="utf-8"), where=name)
    else:
        preset = Path(name).name.removesuffix(".json").removeprefix("ds_config_").replace("_", "-")
        if preset not in PRESETS:
            raise ConfigError(
                f"--deepspeed: found {name!r}, expected an existing file or one of {', '.join(PRESETS)}\n"
                "  fix: use a preset (--deepspeed zero2), or name a JSON file that exists"
            )
        if name != preset:
            notices.append(f"--deepspeed {name}: no such file; using the shipped preset {preset!r}")
        text = (resources.files("minicpmv.training.flags") / "deepspeed" / f"{preset}.json").read_text(encoding="utf-8")
        config = _parse(text, where=f"preset {preset}")
    notices += _complete(config)
    if on_cpu:
        notices += _avoid_compiling(config)
    return DeepSpeedChoice(config, tuple(notices))


def offloads_optimizer(config: Mapping[str, Any]) -> bool:
    """Whether a configuration keeps the optimizer in the machine's memory."""
    offload = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    return offload.get("device", "none") != "none"


def check_compiled(config: Mapping[str, Any], machine: Machine) -> None:
    """Refuse a configuration whose optimizer DeepSpeed would have to compile and cannot.

    Raises:
        MachineError: A tool is missing.
    """
    block, is_offloaded = config.get("optimizer"), offloads_optimizer(config)
    if isinstance(block, Mapping):
        params = block.get("params")
        is_of_torch = isinstance(params, Mapping) and bool(params.get("torch_adam"))
        is_compiled = str(block.get("type")).lower() in _COMPILED and not is_of_torch
    else:
        is_compiled = is_offloaded and bool(config.get("zero_force_ds_cpu_optimizer", True))
    if not is_compiled or _is_built("cpu" if is_offloaded else "fused"):
        return
    refuse_without_tools(
        machine,
        "an optimizer on the processor" if is_offloaded else "a fused optimizer",
        asked_by="--deepspeed",
        otherwise="do without offload"
        if is_offloaded
        else "remove the 'optimizer' block of its configuration, so that --optim counts",
    )


def _is_built(kind: str) -> bool:
    """Whether DeepSpeed was installed with its optimizers compiled."""
    package = importlib.util.find_spec("deepspeed")
    places = [] if package is None else package.submodule_search_locations or []
    return any(built for place in places for built in Path(place, "ops").glob(f"*/{kind}_*_op*.so"))


def _parse(text: str, *, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where}: found invalid JSON at line {error.lineno} column {error.colno} ({error.msg}), "
            "expected a DeepSpeed configuration\n  fix: mend that line, or use a preset (--deepspeed zero2)"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(
            f"{where}: found {type(config).__name__}, expected a JSON object\n  fix: write {{...}}, or use a preset"
        )
    return config


def _complete(config: dict[str, Any]) -> list[str]:
    """Add what every preset has and a user's own configuration may lack."""
    if "torch_autocast" not in config:  # which DeepSpeed does not combine with half-precision weights
        # accelerate adds them too late for ZeRO-3, which has loaded the weights by then: in float32, and so they stay.
        for precision in ("bf16", "fp16"):
            config.setdefault(precision, {"enabled": "auto"})
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") != 3 or zero.get(_GATHERS) is True:
        return []
    is_refused = zero.get(_GATHERS) is False
    zero[_GATHERS] = True
    return [f"--deepspeed: {_GATHERS} is false; true is used, or the model could not be saved"] if is_refused else []


def _avoid_compiling(config: dict[str, Any]) -> list[str]:
    """Remove DeepSpeed's own optimizers: it compiles them at start, which takes minutes and needs a compiler."""
    notices = []
    for block, instead in (("optimizer", "--optim"), ("scheduler", "--lr_scheduler_type")):
        if config.pop(block, None) is not None:
            notices.append(f"--deepspeed: its {block!r} block needs compiling on a CPU; {instead} is used instead")
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    return notices
