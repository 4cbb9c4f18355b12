"""A small 4.7 with experts, whose files are not among the fixtures: their own, with another language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from minicpmv.releases.row import find_code
from minicpmv.releases.table import VERSIONS
from tests.tiny import FIXTURES

__all__ = ["write_experts"]

_TEXT = {
    "model_type": "qwen3_5_moe_text",
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


def write_experts(folder: Path, *, seed: int = 0) -> Path:
    """Write a whole checkpoint with random weights."""
    source, network = FIXTURES / "v4_7", VERSIONS["4.7-A3B"].network
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model*", "cases*", "packed*", "images", "prompts*"))
    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    fields["text_config"] = {key: value for key, value in fields["text_config"].items() if key != "intermediate_size"}
    fields["text_config"] |= _TEXT
    fields["dtype"] = "float32"
    torch.manual_seed(seed)
    find_code(network.model)(find_code(network.config)(**fields)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
    return folder
