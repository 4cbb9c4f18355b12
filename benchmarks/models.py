"""Random models with the proportions of the released ones, small enough for a CPU, saved in the released layout.

Speed does not depend on what weights hold. Names, tokenizer and processor are those of the tests' MiniCPM-V-2.6.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

__all__ = ["make_model"]

_FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "v2_6"
_SMALL_FILES = ("*.json", "merges.txt")
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
    dtype: torch.dtype = torch.bfloat16,
    vision: dict[str, Any] | None = None,
    **language: Any,
) -> Path:
    """Write a checkpoint, and return its directory.

    Args:
        directory: Where to.
        num_queries: Image tokens of a slice.
        dtype: Of the weights.
        vision: Sizes of the tower, where they are not the usual ones.
        language: Sizes of the language model, likewise.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in _SMALL_FILES:
        for path in _FIXTURE.glob(pattern):
            if path.name not in _NOT_OF_A_CHECKPOINT:
                shutil.copyfile(path, directory / path.name)
    tower = {"image_size": 980, "patch_size": 14, "model_type": "siglip", **_VISION, **(vision or {})}
    slicing = {"max_slice_nums": 9, "patch_size": 14, "scale_resolution": 448}
    _edit(
        directory / "config.json",
        {**_LANGUAGE, **language, "query_num": num_queries, "image_size": 448, "vision_config": tower}
        | {"slice_config": {**slicing, "model_type": "minicpmv"}},
    )
    _edit(directory / "preprocessor_config.json", {**slicing, "image_feature_size": num_queries})
    torch.manual_seed(0)
    model: Any = MiniCPMVForConditionalGeneration(MiniCPMVConfig.from_pretrained(directory))
    config = (directory / "config.json").read_bytes()  # saving would write more into it than was released
    model.to(dtype).save_pretrained(directory)
    (directory / "config.json").write_bytes(config)
    return directory


def _edit(path: Path, changes: dict[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes, indent=1) + "\n", encoding="utf-8")
