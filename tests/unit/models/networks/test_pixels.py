"""Pixels that came as bytes are the values of the released processor, bit for bit, wherever the model is given them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from minicpmv.models.networks.pixels import read_pixels
from minicpmv.processing.pictures.patches import normalise, values_of_bytes
from tests.invariants.samples import Sample, packed, padded, samples_of
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES

_HALF = (0.5, 0.5, 0.5)
_SCALES: list[dict[str, tuple[float, ...]]] = [
    {"mean": _HALF, "std": _HALF},  # of every release
    {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},  # CLIP's
    {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},  # ImageNet's
    {"mean": (0.0, -10.0, 10.0), "std": (1e-4, 100.0, 1.0)},  # the bounds that a checkpoint's file may reach
]


def every_byte() -> np.ndarray:
    """Each byte in each channel, (256, 3 * 4), another one beside it."""
    ramp = np.arange(256, dtype=np.uint8)
    return np.stack([np.roll(ramp, shift) for shift in range(12)], axis=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", _SCALES)
def test_every_byte_in_every_channel_has_its_value(scale: dict[str, tuple[float, ...]], dtype: torch.dtype) -> None:
    patches, table = every_byte(), torch.from_numpy(values_of_bytes(**scale))
    expected = torch.from_numpy(normalise(patches, **scale)).to(dtype)
    found = read_pixels(torch.from_numpy(patches), table, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert torch.equal(read_pixels(torch.from_numpy(patches), table.to(dtype), dtype), expected), "an engine's cast"


class Sizes(TorchDispatchMode):
    """Notes how many numbers each operation makes, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = func(*args, **(kwargs or {}))
        if not any(result.alias_info for result in func._schema.returns):
            self.made += [each.numel() for each in pytree.tree_leaves(outcome) if isinstance(each, Tensor)]
        return outcome


def test_bytes_of_many_patches_are_looked_up_in_pieces() -> None:
    """40 slices of 1,024 patches and one more patch: beside the result nothing is above a channel of 2,048 patches."""
    pixels = torch.randint(256, (40 * 1024 + 1, 588), dtype=torch.uint8)
    table = torch.from_numpy(values_of_bytes(mean=_HALF, std=_HALF)).bfloat16()
    with Sizes() as sizes:
        found = read_pixels(pixels, table, torch.bfloat16)
    assert sorted(sizes.made)[-2:] == [2048 * 196, found.numel()]
    at_once = [table[channel][pixels[:, channel * 196 : (channel + 1) * 196].int()] for channel in range(3)]
    assert torch.equal(found, torch.cat(at_once, dim=1))


def test_values_pass_through_and_no_patch_is_none() -> None:
    values = torch.rand(3, 12)
    assert read_pixels(values, None, torch.float32) is values
    assert torch.equal(read_pixels(values, None, torch.bfloat16), values.bfloat16())
    assert read_pixels(torch.zeros(0, 588, dtype=torch.uint8), torch.rand(3, 256), torch.float32).shape == (0, 588)


@pytest.mark.parametrize(
    ("pixels", "table", "message"),
    [
        (torch.zeros(1, 12, dtype=torch.uint8), None, "came as bytes without pixel_table; pass all that the collator"),
        (torch.zeros(1, 12), torch.zeros(3, 256), "pixel_table came with pixel_values in torch.float32"),
        (torch.zeros(1, 12, dtype=torch.int64), None, "pixel_values are torch.int64, expected values in a float type"),
        (torch.zeros(1, 12, dtype=torch.uint8), torch.zeros(256, 3), r"pixel_table is \(256, 3\) in torch.float32"),
        (torch.zeros(1, 12, dtype=torch.uint8), torch.zeros(3, 256, dtype=torch.uint8), r"\(3, 256\) in torch.uint8"),
    ],
)
def test_what_has_no_meaning_is_refused(pixels: Tensor, table: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pixels(pixels, table, torch.float32)


def load(version: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(FIXTURES / version, dtype=torch.float32)


def as_bytes(batch: Sample) -> Sample:
    """The same batch with the bytes that its values were made of."""
    table = torch.from_numpy(values_of_bytes(mean=_HALF, std=_HALF))
    pixels = ((batch["pixel_values"] * 0.5 + 0.5) * 255).round().to(torch.uint8)
    assert torch.equal(read_pixels(pixels, table, torch.float32), batch["pixel_values"]), "the fixtures' own values"
    return batch | {"pixel_values": pixels, "pixel_table": table}


@pytest.mark.parametrize(
    "version", [version if version == "v2_6" else pytest.param(version, marks=pytest.mark.slow) for version in VERSIONS]
)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("together", [packed, lambda samples: padded(samples, "right")], ids=["packed", "padded"])
def test_loss_and_gradients_are_those_of_values(version: str, half: bool, together: Any) -> None:
    model = load(version).train()

    def step(inputs: Sample) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(**inputs).loss
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in model.parameters()]

    batch = together(samples_of(version))
    expected, their_gradients = step(batch)
    loss, gradients = step(as_bytes(batch))
    assert torch.equal(loss, expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients, their_gradients, strict=True))


def test_answers_to_bytes_are_those_to_values() -> None:
    """Two beams, so that pictures are repeated; and in bfloat16, whose table is rounded before it is read."""
    model = load("v2_6").eval().bfloat16()
    batch = {name: value for name, value in padded(samples_of("v2_6"), "left").items() if name != "labels"}
    for beams in (1, 2):
        options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
        assert torch.equal(model.generate(**as_bytes(batch), **options), model.generate(**batch, **options))


def test_the_model_refuses_bytes_without_their_table() -> None:
    model, batch = load("v2_6"), as_bytes(packed(samples_of("v2_6")))
    del batch["pixel_table"]
    with pytest.raises(ValueError, match="came as bytes without pixel_table"):
        model(**batch)
    with pytest.raises(ValueError, match="came as bytes without pixel_table"):
        model.get_image_features(batch["pixel_values"], batch["tgt_sizes"])
