"""Reads a complete checkpoint tensor by tensor, so that an export never holds the whole model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minicpmv.errors import CheckpointError
from minicpmv.models.checkpoints.loading import refuse_misfits
from minicpmv.models.checkpoints.weight_files import Shape, WeightReader, find_weight_files
from minicpmv.models.configuration import MiniCPMVConfig, read_model_config
from minicpmv.models.skeleton import build_skeleton
from minicpmv.releases.directories import find_directory
from minicpmv.releases.model_files import check_model_files

__all__ = ["Checkpoint", "open_checkpoint"]

_NEEDED = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in the released layout whose weights fit its config."""

    path: Path
    config: MiniCPMVConfig
    weights: WeightReader

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of every tensor, by its name in the files."""
        return {name: tuple(outline.shape) for name, outline in self.weights.outlines.items()}


def open_checkpoint(name: str) -> Checkpoint:
    """Open a model directory, or a name on the hub, whose files are fetched.

    Raises:
        CheckpointError: There is none, or its weights are already quantized or do not fit its config.
    """
    path = find_directory(name, asked_by="model", allow_patterns=list(_NEEDED))
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{name}: found no config.json, expected a complete model\n  fix: name the directory that holds it"
        )
    check_model_files(path)
    config = read_model_config(path)
    if getattr(config, "quantization_config", None):
        raise CheckpointError(
            f"{name}: found quantized weights, expected unquantized ones\n  fix: export the model that was quantized"
        )
    checkpoint = Checkpoint(path, config, WeightReader(find_weight_files(path)))
    refuse_misfits(dict(checkpoint.shapes), build_skeleton(path), path)
    return checkpoint
