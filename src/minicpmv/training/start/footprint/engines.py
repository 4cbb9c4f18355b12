"""Tabulates how each engine shards and offloads weights, gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Engine", "find_engine"]

# DeepSpeed's defaults. Source: its documentation, "ZeRO Optimizations for FP16".
_LIVE_PARAMETERS = 1_000_000_000
_BUCKET = 500_000_000


class Engine(NamedTuple):
    """An engine: each ``shards_...`` divides by the number of devices, each ``offloads_...`` leaves nothing on them."""

    name: str
    shards_optimizer: bool = False
    shards_gradients: bool = False
    shards_weights: bool = False
    gathers_in_half: bool = False
    """Weights are gathered in the computation's precision and released after use, so autocast makes no copies."""
    has_masters: bool = False
    """Weights are trained in the run's own precision, and the optimizer has a float32 copy."""
    copies_gradients: bool = False
    """A second copy of all gradients, in the buckets that processes exchange."""
    offloads_optimizer: bool = False
    """Offloads the optimizer, with masters and gradients."""
    offloads_weights: bool = False
    bucket_elements: int = 0
    """Size of the communication buffers."""
    live_elements: int = 0
    """Most parameters that are gathered at once."""


_ENGINES = {
    "single": Engine("one process"),
    "ddp": Engine("DDP", copies_gradients=True),
    "fsdp": Engine("FSDP2", shards_optimizer=True, shards_gradients=True, shards_weights=True, gathers_in_half=True),
    "zero0": Engine("DeepSpeed ZeRO-0", has_masters=True),
    "zero1": Engine("DeepSpeed ZeRO-1", has_masters=True, shards_optimizer=True),
    "zero2": Engine("DeepSpeed ZeRO-2", has_masters=True, shards_optimizer=True, shards_gradients=True),
    "zero3": Engine(
        "DeepSpeed ZeRO-3", has_masters=True, shards_optimizer=True, shards_gradients=True, shards_weights=True
    ),
}


def find_engine(
    settings: Mapping[str, Any],
    *,
    num_devices: int,
    hidden_size: int,
    layer_elements: int = 0,
    head_elements: int = 0,
) -> Engine:
    """Find the engine of a run.

    Args:
        settings: Keyword arguments for ``TrainingArguments``; ``deepspeed`` is a configuration.
        num_devices: Number of devices, with one process each.
        hidden_size: Width of the language model, from which transformers fills in DeepSpeed's ``auto``.
        layer_elements: Parameters of the largest layer.
        head_elements: Parameters of the output head, which FSDP2 holds until the backward pass is over.
    """
    config = settings.get("deepspeed")
    if config:
        return _read_deepspeed(config, hidden_size)
    if settings.get("fsdp"):
        live = 2 * layer_elements + head_elements  # one layer computes, one is prefetched
        return _ENGINES["fsdp"]._replace(live_elements=live)
    return _ENGINES["ddp" if num_devices > 1 else "single"]


def _read_deepspeed(config: Mapping[str, Any], hidden_size: int) -> Engine:
    zero = config.get("zero_optimization", {})
    stage = int(zero.get("stage", 0))
    bucket, live = zero.get("reduce_bucket_size", _BUCKET), zero.get("stage3_max_live_parameters", _LIVE_PARAMETERS)
    bucket = hidden_size**2 if bucket == "auto" else int(float(bucket))
    engine = _ENGINES[f"zero{stage}"]
    offloads = {
        part: zero.get(f"offload_{part}", {}).get("device", "none") not in ("none", None)
        for part in ("optimizer", "param")
    }
    marks = [f" with {part} offload" for part, is_on in offloads.items() if is_on]
    return engine._replace(
        name=engine.name + " and".join(marks),
        bucket_elements=bucket * 2 if stage else 0,  # one is filled while the other is reduced
        live_elements=int(float(live)) if stage == 3 and live != "auto" else _LIVE_PARAMETERS if stage == 3 else 0,
        offloads_optimizer=offloads["optimizer"],
        offloads_weights=offloads["param"],
    )
