"""Lists the tensors of an optimizer's state that this process holds, whatever engine shards them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

__all__ = ["own_state"]


def own_state(optimizer: Any, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of the state with a name: its key and its weight; ZeRO keeps flat pieces of many weights.

    States of other types than torch's own, such as 8-bit ones, are left out.

    Args:
        optimizer: Trainer's: accelerate and DeepSpeed wrap the one that keeps the state.
        model: Provides the weights' names.
    """
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for number, (parameter, state) in enumerate(optimizer.state.items()):
        for key, value in state.items():
            piece = value.to_local() if isinstance(value, DTensor) else value
            if type(piece) is Tensor:
                yield f"{key} of {names.get(id(parameter), f'piece {number} of all weights')}", piece
