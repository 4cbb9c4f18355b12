"""Random models with the proportions of the released ones, small enough for a CPU, saved in the released layout.

Speed does not depend on what weights hold. Tokenizer and processor are those of the tests' models.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

__all__ = ["FIXTURES", "build_random", "make_checkpoint", "make_model", "write_small_files"]

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
"""The tests' tiny models, in the released layout."""

_SMALL_FILES = ("*.json", "merges.txt", "tokenizer.model")
_NOT_OF_A_CHECKPOINT = ("cases.json", "inference.json")

# A language model of 106 million parameters, its head 7 % of it, and a tower of 5 %, as in MiniCPM-Llama3-V-2.5.
_LANGUAGE = {
    "hidden_size": 768,
    "intermediate_size": 2688,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 3,
    "vocab_size": 9216,
    "max_position_embeddings": 32768,
}
_VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}


def make_model(
    directory: Path,
    *,
    num_queries: int = 96,
    vision: dict[str, Any] | None = None,
    **language: Any,
) -> Path:
    """Write a small checkpoint, and return its directory.

    Args:
        directory: Where to.
        num_queries: Image tokens of a slice.
        vision: Sizes of the tower, where they are not the usual ones.
        language: Sizes of the language model, likewise.
    """
    tower = {"image_size": 980, "patch_size": 14, "model_type": "siglip", **_VISION, **(vision or {})}
    sizes = {**_LANGUAGE, **language, "query_num": num_queries, "vision_config": tower}
    return make_checkpoint(directory, "v2_6", sizes)


def make_checkpoint(directory: Path, fixture: str, sizes: dict[str, Any]) -> Path:
    """Write a checkpoint of any size in bfloat16, and return its directory.

    Args:
        directory: Where to.
        fixture: Whose small files it has, of the tests' models.
        sizes: What its config states.
    """
    write_small_files(directory, fixture, sizes)
    config = (directory / "config.json").read_bytes()  # saving would write more into it than was released
    model = build_random(directory, dtype=torch.bfloat16, device="cuda" if torch.cuda.is_available() else "cpu")
    model.save_pretrained(directory)
    (directory / "config.json").write_bytes(config)
    return directory


def build_random(directory: Path, *, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Build the model of a ``config.json`` with random weights, made where they are to be.

    Args:
        directory: Holds that file; its weights, if there are any, are not read.
        dtype: Of the weights from the start: 8 billion in float32 would be 34 GB.
        device: Where to.
    """
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return MiniCPMVForConditionalGeneration(MiniCPMVConfig.from_pretrained(directory))
    finally:
        torch.set_default_dtype(before)


def write_small_files(directory: Path, fixture: str, sizes: dict[str, Any]) -> None:
    """Write what a checkpoint holds beside its weights; as for :func:`make_checkpoint`."""
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in _SMALL_FILES:
        for path in (FIXTURES / fixture).glob(pattern):
            if path.name not in _NOT_OF_A_CHECKPOINT:
                shutil.copyfile(path, directory / path.name)
    slicing = {"max_slice_nums": 9, "patch_size": 14, "scale_resolution": 448}
    preprocessing = directory / "preprocessor_config.json"
    if preprocessing.exists():
        _edit(preprocessing, {**slicing, "image_feature_size": sizes["query_num"]})
        sizes = {**sizes, "slice_config": {**slicing, "model_type": "minicpmv"}}
    else:  # MiniCPM-V-2 states it among the model's own settings
        sizes = {**sizes, **slicing}
    # A released file that is silent about its tower means the released tower, not the tiny one.
    _edit(directory / "config.json", {"vision_config": None, **sizes, "image_size": 448, "torch_dtype": "bfloat16"})


def _edit(path: Path, changes: dict[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in content.items() if name not in changes or changes[name] is not None}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
