"""Reads what transformers' own classes computed for 4.6 and 4.7, as this package's batches."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minicpmv.models.skeleton import load_weights
from tests.parity.cases import FIXTURES

_WITHOUT_US = """
import json, sys
sys.modules["minicpmv"] = None
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
folder, inputs = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(**load_file(inputs)).logits[0, -1]
print(json.dumps([type(model).__module__, logits.tolist()]))
"""

__all__ = ["NATIVE", "NativeCase", "PackedRow", "case_names", "load_case", "load_model", "load_packed"]

NATIVE = ("v4_6", "v4_7")


@dataclass(frozen=True)
class NativeCase:
    """One stored conversation: what goes in, and everything that was computed from it."""

    about: dict[str, Any]
    inputs: dict[str, Tensor]
    labels: Tensor
    stored: dict[str, Tensor]
    slot: int
    """The token that holds an image token's place."""

    @property
    def mode(self) -> str:
        """The ``downsample_mode``."""
        return self.about["name"].rpartition(".")[2]

    @property
    def prompt(self) -> dict[str, Tensor]:
        """The conversation without its last answer."""
        ids = self.stored["prompt_ids"].long()[None]
        inputs = self.inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "image_mask" in inputs:
            inputs["image_mask"] = ids == self.slot
        if "prompt_position_ids" in self.stored:
            inputs["mrope_position_ids"] = self.stored["prompt_position_ids"].long()[:, None]
        return inputs


@dataclass(frozen=True)
class PackedRow:
    """Three conversations in one row, and what each gives alone."""

    about: dict[str, Any]
    stored: dict[str, Tensor]
    cases: list[NativeCase]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The row."""
        lengths = self.about["lengths"]
        positions = torch.cat([torch.arange(length) for length in lengths])
        inputs = {"input_ids": self.stored["input_ids"].long()[None], "position_ids": positions[None]}
        seen = [case.inputs for case in self.cases if "pixel_values" in case.inputs]
        inputs |= {name: torch.cat([each[name] for each in seen]) for name in ("pixel_values", "tgt_sizes")}
        slots = [
            case.inputs.get("image_mask", torch.zeros_like(case.inputs["input_ids"]).bool()) for case in self.cases
        ]
        inputs["image_mask"] = torch.cat(slots, dim=1)
        if self.stored["position_ids"].ndim == 2:
            inputs["mrope_position_ids"] = self.stored["position_ids"].long()[:, None]
        return inputs

    @property
    def labels(self) -> Tensor:
        return self.stored["labels"].long()[None]


@cache
def _read(version: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = FIXTURES / version
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), load_file(folder / f"{name}.safetensors")


def case_names(version: str) -> list[str]:
    return [case["name"] for case in _read(version, "cases")[0]["cases"]]


def load_case(version: str, name: str) -> NativeCase:
    about, tensors = _read(version, "cases")
    case = next(case for case in about["cases"] if case["name"] == name)
    stored = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    config = json.loads((FIXTURES / version / "config.json").read_text(encoding="utf-8"))
    slot = config["video_token_id" if case["kind"] == "video" else "image_token_id"]
    ids = stored["input_ids"].long()[None]
    inputs = {"input_ids": ids}
    if case["pixels"]:
        pixels = torch.cat([tensors[key] for key in case["pixels"]])
        values = (pixels.float() / 255 - 0.5) / 0.5
        sizes = stored["target_sizes"].long()
        inputs |= {"pixel_values": values, "tgt_sizes": sizes, "image_mask": ids == slot}
    if "position_ids" in stored:
        inputs["mrope_position_ids"] = stored["position_ids"].long()[:, None]
    return NativeCase(case, inputs, stored["labels"].long()[None], stored, slot)


def load_packed(version: str) -> PackedRow:
    about, stored = _read(version, "packed")
    return PackedRow(about, stored, [load_case(version, name) for name in about["cases"]])


def load_model(version: str, mode: str = "16x", dtype: torch.dtype = torch.float32) -> Any:
    model: Any = load_weights(FIXTURES / version, dtype=dtype)
    model.config.downsample_mode = "4x" if mode == "4x" else "16x"
    return model


def native_inputs(version: str) -> dict[str, torch.Tensor]:
    """A tiled picture, as transformers' own processor gives it."""
    case = load_case(version, "image_tiled.16x")
    prompt = case.prompt
    pixels = prompt["pixel_values"].reshape(-1, 3, 14, 14).permute(1, 2, 0, 3).reshape(1, 3, 14, -1).contiguous()
    kinds = {"mm_token_type_ids": (prompt["input_ids"] == case.slot).int()} if version == "v4_7" else {}
    return {"input_ids": prompt["input_ids"], "pixel_values": pixels, "target_sizes": prompt["tgt_sizes"], **kinds}


def logits_without_us(folder: Path, version: str) -> Tensor:
    """Return what :func:`native_inputs` give at their end in a process that cannot import this package."""
    with tempfile.TemporaryDirectory() as place:
        inputs = Path(place, "inputs.safetensors")
        save_file(native_inputs(version), inputs)
        command = [sys.executable, "-c", _WITHOUT_US, str(folder), str(inputs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    module, logits = json.loads(done.stdout.splitlines()[-1])
    assert module.startswith("transformers.models.minicpmv4_")
    return torch.tensor(logits)


def last_logits(model: Any, version: str) -> Tensor:
    """Return what a tiled picture and a question give at their end."""
    with torch.no_grad():
        return model.eval()(**load_case(version, "image_tiled.16x").prompt).logits[0, -1]
