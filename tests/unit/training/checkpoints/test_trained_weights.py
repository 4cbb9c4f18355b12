"""Whether trained weights are finite and have changed, by what a process holds of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import TrainerState

from minicpmv.errors import NotFiniteError
from minicpmv.releases.table import VERSIONS
from minicpmv.training.checkpoints.trained_weights import ChangeWatch, refuse_not_finite


def _model() -> nn.Module:
    """A few tensors of odd sizes, in three parts."""
    model = nn.Module()
    model.vpm = nn.Linear(5, 3)
    model.resampler = nn.Linear(3, 1, dtype=torch.bfloat16)
    model.llm = nn.Module()
    model.llm.lora_A = nn.Module()
    model.llm.lora_A.default = nn.Linear(7, 3, bias=False)
    model.llm.lora_B = nn.Module()
    model.llm.lora_B.default = nn.Linear(3, 7, bias=False)
    model.config = SimpleNamespace(minicpmv_version=VERSIONS["2.6"])  # pyright: ignore[reportArgumentType]
    return model


def _watch(model: nn.Module, *, step: int = 0) -> ChangeWatch:
    watch, unused = ChangeWatch(), cast("Any", None)
    watch.on_train_begin(unused, TrainerState(global_step=step), unused, model=model)
    return watch


def test_parts_without_any_change_are_named() -> None:
    model = _model()
    watch = _watch(model)
    assert watch.unchanged_parts(model) == (["vision tower", "resampler", "language model (LoRA)"], 3)
    with torch.no_grad():
        last = model.get_parameter("resampler.bias").view(-1)
        last[0] = torch.nextafter(last[0], torch.tensor(float("inf"), dtype=torch.bfloat16))
    assert watch.unchanged_parts(model) == (["vision tower", "language model (LoRA)"], 3)


def test_sign_of_a_zero_is_no_change() -> None:
    model = _model()
    nn.init.zeros_(model.get_parameter("vpm.weight"))
    watch = _watch(model)
    with torch.no_grad():
        model.get_parameter("vpm.weight").mul_(-1)
    assert watch.unchanged_parts(model)[0][0] == "vision tower"


def test_lora_s_first_matrix_alone_is_no_change() -> None:
    model = _model()
    watch = _watch(model)
    nn.init.ones_(model.get_parameter("llm.lora_A.default.weight"))
    assert "language model (LoRA)" in watch.unchanged_parts(model)[0]
    nn.init.ones_(model.get_parameter("llm.lora_B.default.weight"))
    assert "language model (LoRA)" not in watch.unchanged_parts(model)[0]


def test_resumed_run_is_not_asked() -> None:
    model = _model()
    assert _watch(model, step=3).unchanged_parts(model) == ([], 3)


def test_frozen_weights_are_left_out() -> None:
    model = _model()
    model.get_submodule("vpm").requires_grad_(False)
    assert _watch(model).unchanged_parts(model) == (["resampler", "language model (LoRA)"], 2)
    nn.init.constant_(model.get_parameter("vpm.weight"), float("nan"))
    refuse_not_finite(model, where="here", fix="that")


def test_weights_at_fault_are_named_with_where_and_fix() -> None:
    model = _model()
    for name in ("vpm.bias", "llm.lora_A.default.weight"):
        nn.init.constant_(model.get_parameter(name), float("inf"))
    with pytest.raises(NotFiniteError) as told:
        refuse_not_finite(model, where="step 3 of 4", fix="do that")
    assert str(told.value).startswith("step 3 of 4: found 2 trained tensors with values that are not finite")
    assert "vpm.bias, llm.lora_A.default.weight, expected" in str(told.value)
    assert str(told.value).endswith("\n  fix: do that")
