"""Makes the model of a directory by the class that its release's row names: with weights, or without, to look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from minicpmv.models.configuration import read_model_config
from minicpmv.models.joining.model import JoinedModel
from minicpmv.releases.row import find_code

__all__ = ["build_skeleton", "load_weights", "model_class"]


def model_class(config: Any) -> type[JoinedModel]:
    """Return the class of a config's model."""
    return find_code(config.minicpmv_version.network.model)


def build_skeleton(base: Path, *, downsample_mode: str | None = None) -> JoinedModel:
    """Build a checkpoint's model without weights, to look at its modules: milliseconds, whatever its size.

    Args:
        base: Its directory.
        downsample_mode: Another than its files state.
    """
    config: Any = read_model_config(base)
    if downsample_mode is not None:
        config.downsample_mode = downsample_mode
    with torch.device("meta"):
        return model_class(config)(config)


def load_weights(place: str | Path, **options: Any) -> JoinedModel:
    """Load a whole model.

    Args:
        place: Its directory, or its name on the hub.
        options: transformers' own, as for ``from_pretrained``.

    Raises:
        CheckpointError: As ``StrictLoading.from_pretrained``.
    """
    where = {name: options[name] for name in ("cache_dir", "revision", "subfolder", "token") if name in options}
    config: Any = AutoConfig.from_pretrained(place, **where)
    return model_class(config).from_pretrained(place, **options)
