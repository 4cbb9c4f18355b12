"""Packs the language model of a MiniCPM-V 4.6 in 4 bits by GPTQ, with llm-compressor, for vLLM.

    python scripts/quantize_4_bits.py MODEL ROWS.pt OUTPUT [UNPACKED]

Runs in llm-compressor's own environment, without this package. MODEL is a complete directory, ROWS.pt from
``scripts/calibration_rows.py``. UNPACKED gets the same weights as they are after packing, as numbers of the model's
precision: a directory that this package evaluates as it does any other, which is how both are compared.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from llmcompressor import oneshot  # only in its own environment
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

# What stays as it is: the tower and what joins it, the head, and what feeds the recurrence of the linear layers.
LEFT_ALONE = ["lm_head", "re:.*vision_tower.*", "re:.*merger.*", "re:.*in_proj_a$", "re:.*in_proj_b$"]
OTHER_FILES = ("config", "tokenizer", "template", "processor", "special_tokens_map", "added_tokens", "vocab", "merges")


def main(place: str, rows: str, output: str, unpacked: str | None = None) -> None:
    """Pack a model."""
    source = Path(place)
    model: Any = AutoModelForImageTextToText.from_pretrained(place, dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.load(rows, weights_only=True)
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(place),  # it asks for one; the whole would need torchvision
        dataset=torch.utils.data.DataLoader(inputs, batch_size=None),
        recipe=GPTQModifier(targets="Linear", scheme="W4A16", ignore=LEFT_ALONE),
        num_calibration_samples=len(inputs),
        pipeline="basic",  # layer by layer it would trace the code of the tower, whose loops depend on the pictures
    )
    after = {name: value for name, value in model.state_dict().items() if name in before}
    num_packed = 0
    for name, value in after.items():
        if value.ndim == 1 and not torch.equal(value, before[name]):
            # A norm, to whose weights 1 was added and taken away in bfloat16, which keeps few of their digits.
            value.copy_(before[name])
        num_packed += not torch.equal(value, before[name])
    print(f"{num_packed} matrices packed")
    if unpacked is not None:
        _copy_files(source, Path(unpacked))
        names = {name for file in source.glob("*.safetensors") for name in load_file(file)}
        values = {name: after[name].contiguous() for name in names if name in after}
        save_file(values, Path(unpacked) / "model.safetensors", {"format": "pt"})
        _state_precision(Path(unpacked) / "config.json")
    model.save_pretrained(output, save_compressed=True)
    _copy_files(source, Path(output))
    _state_precision(Path(output) / "config.json")


def _state_precision(file: Path) -> None:
    """Name the precision of what is written; the source's may have been another."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for part in (config, config["text_config"]):
        part["dtype"] = "bfloat16"
    file.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _copy_files(source: Path, target: Path) -> None:
    """Copy tokenizer, template and the rest as they are; the config and the weights are the model's own."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if any(part in file.name for part in OTHER_FILES) and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
