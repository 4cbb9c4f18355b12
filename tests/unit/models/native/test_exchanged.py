"""A module gets another way to compute, and keeps its name, its weights and its released way."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from minicpmv.models.native.exchanged import exchange


class Doubles(nn.Linear):
    """Gives twice as much where it is asked to."""

    def forward(self, input: Tensor, twice: bool = False) -> Tensor:
        return super().forward(input) * (2 if twice else 1)


def test_an_exchanged_module_computes_as_told_and_otherwise_as_before() -> None:
    module: Any = nn.Linear(3, 2)
    given, before = torch.randn(4, 3), dict(module.state_dict())
    expected = module(given)
    exchange(module, Doubles)
    assert type(module).__name__ == "Linear"
    assert torch.equal(module(given), expected)
    assert torch.equal(module(given, twice=True), 2 * expected)
    assert module.state_dict().keys() == before.keys()


def test_modules_of_one_class_share_one_and_can_be_copied() -> None:
    modules: list[Any] = [nn.Linear(3, 2), nn.Linear(5, 2)]
    for module in modules:
        exchange(module, Doubles)
    assert type(modules[0]) is type(modules[1])
    copied = copy.deepcopy(modules[0])
    assert isinstance(copied, Doubles)
    assert torch.equal(copied.weight, modules[0].weight)
