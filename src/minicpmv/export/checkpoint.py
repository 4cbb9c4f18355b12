"""A complete checkpoint, read tensor by tensor: an export never holds the whole model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from minicpmv.errors import CheckpointError
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.loading import refuse_misfits
from minicpmv.models.weight_files import Shape, WeightReader, find_weight_files
from minicpmv.training.base import build_skeleton

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
        """Of every tensor, by its name in the files."""
        return {name: tuple(outline.shape) for name, outline in self.weights.outlines.items()}


def open_checkpoint(name: str) -> Checkpoint:
    """Open a model directory, or a name on the hub, whose files are fetched.

    Raises:
        CheckpointError: There is none, its weights are quantised already or do not fit its config.
    """
    path = _find(name)
    config = MiniCPMVConfig.from_pretrained(path)
    if getattr(config, "quantization_config", None):
        raise CheckpointError(
            f"{name}: found weights packed in fewer bits, expected whole ones\n"
            "  fix: export the model that they were made of"
        )
    checkpoint = Checkpoint(path, config, WeightReader(find_weight_files(path)))
    refuse_misfits(dict(checkpoint.shapes), build_skeleton(path), path)
    return checkpoint


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
            raise CheckpointError(
                f"model: found no directory {name!r}, expected a complete model\n"
                "  fix: correct the path; a finished run prints its own"
            )
        try:
            return Path(snapshot_download(name, allow_patterns=list(_NEEDED)))
        except (OSError, ValueError) as error:  # huggingface_hub's own errors are of these kinds
            raise CheckpointError(
                f"model: found neither a directory {name!r} nor a reachable hub repository of that name "
                f"({type(error).__name__})\n  fix: download the model and give its directory"
            ) from error
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{name}: found no config.json, expected a complete model\n  fix: name the directory that holds it"
        )
    return path
