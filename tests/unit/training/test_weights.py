"""Whether trained weights are finite and have changed, by what a process holds of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minicpmv.errors import NotFiniteError
from minicpmv.training.weights import checksums, name_few, refuse_not_finite, unchanged_parts


def _model() -> nn.Module:
    """A few tensors of odd sizes, in three parts."""
    model = nn.Module()
    model.vpm = nn.Linear(5, 3)
    model.resampler = nn.Linear(3, 1, dtype=torch.bfloat16)
    model.llm = nn.Module()
    model.llm.lora_A = nn.Linear(7, 3, bias=False)
    return model


def test_parts_without_any_change_are_named() -> None:
    model = _model()
    before = checksums(model)
    assert unchanged_parts(before, model) == (["vision tower", "resampler", "language model (LoRA)"], 3)
    with torch.no_grad():
        last = model.get_parameter("resampler.bias").view(-1)
        last[0] = torch.nextafter(last[0], torch.tensor(float("inf"), dtype=torch.bfloat16))
    assert unchanged_parts(before, model) == (["vision tower", "language model (LoRA)"], 3)


def test_sign_of_a_zero_is_no_change() -> None:
    model = _model()
    nn.init.zeros_(model.get_parameter("vpm.weight"))
    before = checksums(model)
    with torch.no_grad():
        model.get_parameter("vpm.weight").mul_(-1)
    assert unchanged_parts(before, model)[0][0] == "vision tower"


def test_frozen_weights_are_left_out() -> None:
    model = _model()
    model.get_submodule("vpm").requires_grad_(False)
    assert unchanged_parts(checksums(model), model) == (["resampler", "language model (LoRA)"], 2)
    nn.init.constant_(model.get_parameter("vpm.weight"), float("nan"))
    refuse_not_finite(model, where="here", fix="that")


def test_weights_at_fault_are_named_with_where_and_fix() -> None:
    model = _model()
    for name in ("vpm.bias", "llm.lora_A.weight"):
        nn.init.constant_(model.get_parameter(name), float("inf"))
    with pytest.raises(NotFiniteError) as told:
        refuse_not_finite(model, where="step 3 of 4", fix="do that")
    assert str(told.value).startswith("step 3 of 4: found 2 trained tensors with values that are not finite")
    assert "vpm.bias, llm.lora_A.weight, expected" in str(told.value)
    assert str(told.value).endswith("\n  fix: do that")
    assert name_few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
