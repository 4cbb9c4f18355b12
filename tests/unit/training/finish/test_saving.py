"""Saving makes no second model on the device that trains, and only the process that writes copies to its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from minicpmv.training.finish.master_weights import collect_adapter
from minicpmv.training.finish.saving import _round


class _Made(TorchDispatchMode):
    """Writes down on which devices operations make tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.on: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.detach.default:  # another name for the same memory
            self.on += [each.device.type for each in pytree.tree_leaves(outcome) if isinstance(each, Tensor)]
        return outcome


@contextmanager
def _gpu() -> Iterator[_Made]:
    """Let ``cuda`` exist, without data."""
    with FakeTensorMode(), _Made() as made:
        yield made


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_full_model_is_cast_on_the_cpu(rounding: str) -> None:
    with _gpu() as made:
        tensors = {"weight": torch.empty(8, 8, device="cuda"), "count": torch.empty(1, dtype=torch.long, device="cuda")}
        made.on.clear()
        cast = _round(tensors, torch.bfloat16, rounding, seed=1)
    assert cast["weight"].dtype == torch.bfloat16
    assert cast["weight"].device.type == "cpu"
    assert set(made.on) == {"cpu"}


def test_a_model_that_is_saved_as_it_is_is_not_copied() -> None:
    with _gpu() as made:
        tensors = {"weight": torch.empty(8, 8, device="cuda")}
        made.on.clear()
        assert _round(tensors, torch.float32, "nearest", seed=1) == tensors
    assert not made.on


@pytest.mark.parametrize("is_writing", [True, False])
def test_only_the_process_that_writes_an_adapter_copies_it_to_its_memory(is_writing: bool) -> None:
    with _gpu() as made:
        model = nn.ParameterDict({name: torch.empty(4, device="cuda") for name in ("weight", "bias")})
        made.on.clear()
        collected = collect_adapter(model, is_writing=is_writing)
    assert set(collected) == ({"weight", "bias"} if is_writing else set())
    assert made.on == ["cpu"] * 2 * is_writing


def test_what_is_collected_no_longer_follows_the_model() -> None:
    model = nn.Linear(2, 2)
    before = collect_adapter(model, is_writing=True)["weight"].clone()
    collected = collect_adapter(model, is_writing=True)
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(collected["weight"], before)
