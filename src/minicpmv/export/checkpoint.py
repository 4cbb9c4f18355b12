"""A complete checkpoint, read tensor by tensor: an export never holds the whole model in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor

from minicpmv.errors import CheckpointError
from minicpmv.inference.loading import base_of_adapter
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.loading import refuse_misfits
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.weight_files import Shape, read_shapes

__all__ = ["Checkpoint", "open_checkpoint"]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_NEEDED = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in the released layout whose weights fit its config."""

    path: Path
    config: MiniCPMVConfig
    shapes: Mapping[str, Shape]
    """Of every tensor, by its name in the files."""
    files: Mapping[str, Path]
    """Where each tensor is."""

    def read(self, name: str) -> Tensor:
        """Read one tensor, in the precision of the file."""
        with safe_open(self.files[name], framework="pt") as opened:
            return opened.get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        """Tell the precision of one tensor in the file, without reading it."""
        with safe_open(self.files[name], framework="pt") as opened:
            return opened.get_slice(name)[:1].dtype


def open_checkpoint(name: str) -> Checkpoint:
    """Open a model directory, or a name on the hub, whose files are fetched.

    Raises:
        CheckpointError: There is none, it is an adapter, its weights are quantised already or do not fit its config.
    """
    path = _find(name)
    config = MiniCPMVConfig.from_pretrained(path)
    if getattr(config, "quantization_config", None):
        raise CheckpointError(
            f"{name}: found weights packed in fewer bits, expected whole ones\n"
            "  fix: export the model that they were made of"
        )
    by_file = _weight_files(path)
    shapes = {file: read_shapes([file]) for file in by_file}
    found = {tensor: shape for of_file in shapes.values() for tensor, shape in of_file.items()}
    with torch.device("meta"):
        skeleton = MiniCPMVForConditionalGeneration(config)
    refuse_misfits(found, skeleton, path)
    return Checkpoint(path, config, found, {tensor: file for file, of_file in shapes.items() for tensor in of_file})


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
        if (path / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{name}: found an adapter of {base_of_adapter(path)}, expected a complete model\n"
                f"  fix: join the two first: minicpmv merge {name} --output MERGED, then export MERGED"
            )
        raise CheckpointError(
            f"{name}: found no config.json, expected a complete model\n  fix: name the directory that holds it"
        )
    return path


def _weight_files(path: Path) -> list[Path]:
    if (path / _INDEX).is_file():
        index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
        return [path / file for file in sorted(set(index["weight_map"].values()))]
    if (path / _WEIGHTS).is_file():
        return [path / _WEIGHTS]
    raise CheckpointError(
        f"{path}: found neither {_WEIGHTS} nor {_INDEX}, expected the weights\n"
        "  fix: save the model as safetensors, which save_pretrained() does"
    )
