"""Reads the stored training cases of the released code as this model's inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSIONS = ("v2", "v2_5", "v2_6", "v4", "v4_5")


@dataclass(frozen=True)
class Case:
    """One stored batch: what goes in, and everything the released code computed from it."""

    version: str
    name: str
    about: dict
    inputs: dict[str, Tensor]
    attention_mask: Tensor
    stored: dict[str, Tensor]

    def expected(self, name: str) -> Tensor:
        """The stored tensor, preferring the values computed one sample at a time (2.5's batches depend on mates)."""
        return self.stored.get(f"per_sample.{name}", self.stored[name])

    def by_slice(self, name: str) -> Tensor:
        """Stored per-slice tensors of the whole batch, end to end in sample and slice order."""
        places = sorted(tuple(map(int, key.split(".")[1:])) for key in self.stored if key.startswith(f"{name}."))
        return torch.cat([self.expected(f"{name}.{row}.{k}") for row, k in places])


def case_names(version: str) -> list[str]:
    cases = json.loads((FIXTURES / version / "cases.json").read_text(encoding="utf-8"))["cases"]
    return [case["name"] for case in cases]


def load_case(version: str, name: str) -> Case:
    folder = FIXTURES / version
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))["cases"]
    tensors = load_file(folder / "cases.safetensors")
    stored = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    input_ids = stored["input_ids"].long()
    inputs = {"input_ids": input_ids, "attention_mask": stored["attention_mask"].long()}
    image_mask = torch.zeros_like(input_ids, dtype=torch.bool)
    patches, sizes = [], []
    for row in range(len(input_ids)):
        if f"image_bound.{row}" not in stored:
            continue
        for start, end in stored[f"image_bound.{row}"].tolist():
            image_mask[row, start:end] = True
        sizes.append(stored[f"tgt_sizes.{row}"].long())
        for k, (rows, columns) in enumerate(sizes[-1].tolist()):
            patches.append(patch_rows(stored[f"pixel_values_u8.{row}.{k}"], rows, columns))
    if patches:
        inputs |= {"pixel_values": torch.cat(patches), "tgt_sizes": torch.cat(sizes), "image_mask": image_mask}
    about = next(case for case in cases if case["name"] == name)
    return Case(version, name, about, inputs, stored["attention_mask"], stored)


def patch_rows(pixels_u8: Tensor, rows: int, columns: int) -> Tensor:
    """(3, H, W) of 2.0, or the strips (3, 14, rows * columns * 14) of later releases, as (rows * columns, 588)."""
    pixels = ((pixels_u8.float() / 255) - 0.5) / 0.5
    if pixels.shape[1] == 14 and rows * columns * 14 == pixels.shape[2]:
        return pixels.reshape(3, 14, rows * columns, 14).permute(2, 0, 1, 3).reshape(rows * columns, 588)
    return pixels.reshape(3, rows, 14, columns, 14).permute(1, 3, 0, 2, 4).reshape(rows * columns, 588)
