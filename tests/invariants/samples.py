"""The stored training samples one by one, and every way to put them together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.parity.cases import load_case

CASES = ("sliced_multi_turn", "two_samples_padded", "mixed_image_text", "text_only")
Sample = dict[str, Tensor]


def samples_of(version: str) -> list[Sample]:
    """Six samples of different lengths, one without an image; ids, labels and mask are (T,)."""
    return [sample for name in CASES for sample in _rows_of(version, name)]


def _rows_of(version: str, name: str) -> list[Sample]:
    case = load_case(version, name)
    sizes = case.inputs.get("tgt_sizes", torch.empty(0, 2, dtype=torch.long))
    pixels = case.inputs.get("pixel_values", torch.empty(0, 588))
    rows: list[Sample] = []
    for row, length in enumerate(case.attention_mask.sum(1).tolist()):
        mask = case.inputs.get("image_mask", torch.zeros_like(case.inputs["input_ids"], dtype=torch.bool))[row, :length]
        queries = case.about["n_slices"][row]
        here, sizes = sizes[:queries], sizes[queries:]
        patches = int(here.prod(1).sum())
        own, pixels = pixels[:patches], pixels[patches:]
        ids, labels = case.inputs["input_ids"][row, :length], case.stored["labels_clean"][row, :length]
        rows.append({"input_ids": ids, "labels": labels, "image_mask": mask, "tgt_sizes": here, "pixel_values": own})
    return rows


def alone(sample: Sample) -> Sample:
    """A batch of one, without any mask or position."""
    return _images([sample]) | {"input_ids": sample["input_ids"][None], "image_mask": sample["image_mask"][None]}


def padded(samples: Sequence[Sample], side: str) -> Sample:
    """A batch with one row for each sample, padded with nonsense that nothing may look at."""
    longest = max(len(sample["input_ids"]) for sample in samples)

    def fill(tensor: Tensor, value: int | bool) -> Tensor:
        missing = longest - len(tensor)
        return pad(tensor, (missing, 0) if side == "left" else (0, missing), value=value)

    return _images(samples) | {
        "input_ids": torch.stack([fill(sample["input_ids"], 7) for sample in samples]),
        "attention_mask": torch.stack([fill(torch.ones_like(sample["input_ids"]), 0) for sample in samples]),
        "image_mask": torch.stack([fill(sample["image_mask"], False) for sample in samples]),
        "labels": torch.stack([fill(sample["labels"], -100) for sample in samples]),
    }


def packed(samples: Sequence[Sample]) -> Sample:
    """One row with the samples end to end."""
    joined = {
        key: torch.cat([sample[key] for sample in samples])[None] for key in ("input_ids", "image_mask", "labels")
    }
    positions = torch.cat([torch.arange(len(sample["input_ids"])) for sample in samples])
    return _images(samples) | joined | {"position_ids": positions[None]}


def with_known(model: Any, batch: Sample, samples: Sequence[Sample], known: set[int], kind: str) -> Sample:
    """Take the pixels of some samples out of a batch, and put in what tower or resampler make of them, each alone."""
    flags: list[bool] = []
    features: list[Tensor] = []
    pixels: list[Tensor] = []
    for number, sample in enumerate(samples):
        sizes = [(rows, columns) for rows, columns in sample["tgt_sizes"].tolist()]
        flags += [number in known] * len(sizes)
        if number not in known:
            pixels.append(sample["pixel_values"])
        elif sizes:
            seen = model.vpm(sample["pixel_values"], sizes, [len(sizes)])
            features.append((seen if kind == "tower_features" else model.resampler(seen, sizes)).detach())
    batch = {name: value for name, value in batch.items() if name != "pixel_values"}
    batch["known_slices"] = torch.tensor(flags)
    if sum(map(len, pixels)):
        batch["pixel_values"] = torch.cat(pixels)
    return batch | ({kind: torch.cat(features)} if features else {})


def offsets(samples: Sequence[Sample]) -> Tensor:
    """Where the samples of a packed row begin and the last one ends, as transformers' flash attention wants it."""
    return torch.tensor([0, *(len(sample["input_ids"]) for sample in samples)]).cumsum(0).int()


def _images(samples: Sequence[Sample]) -> Sample:
    joined = {key: torch.cat([sample[key] for sample in samples]) for key in ("pixel_values", "tgt_sizes")}
    return joined if len(joined["tgt_sizes"]) else {}
