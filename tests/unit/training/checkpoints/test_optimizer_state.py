"""Every tensor of an optimizer's state is named by its weight, through whatever wraps the optimizer."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from minicpmv.training.checkpoints.optimizer_state import own_state


def test_a_state_is_named_by_its_key_and_its_weight() -> None:
    model = nn.Linear(2, 3, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    wrapped = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))
    found = {name: tuple(tensor.shape) for name, tensor in own_state(wrapped, model)}
    assert found == {"step of weight": (), "exp_avg of weight": (3, 2), "exp_avg_sq of weight": (3, 2)}


def test_a_piece_of_many_weights_is_named_by_its_number() -> None:
    flat = nn.Parameter(torch.ones(5))
    optimizer = torch.optim.SGD([flat], momentum=0.9)
    flat.sum().backward()
    optimizer.step()
    assert [name for name, _ in own_state(optimizer, nn.Linear(1, 1))] == ["momentum_buffer of piece 0 of all weights"]
