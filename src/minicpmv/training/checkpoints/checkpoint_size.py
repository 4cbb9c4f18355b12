"""Estimates how many bytes a checkpoint will take."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["estimate_bytes", "num_elements"]


def estimate_bytes(model: nn.Module, optimizer: Any) -> int:
    """Say about how large a checkpoint will be: its weights, and an optimizer as it is, or like Adam's.

    Args:
        model: With PEFT, only what is trained is saved.
        optimizer: torch's own, whose state is counted; of another kind, in shards, it is taken for float32 weights
            and two moments for each trained one.
    """
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    saved = trained if hasattr(model, "peft_config") else parameters
    states = getattr(optimizer, "state", None) or {}
    tensors = [value for state in states.values() for value in state.values() if isinstance(value, Tensor)]
    size = sum(num_elements(parameter) * parameter.element_size() for parameter in saved)
    if tensors:
        return size + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return size + 12 * sum(num_elements(parameter) for parameter in trained)


def num_elements(parameter: Any) -> int:
    """Count what a parameter has as a whole."""
    return getattr(parameter, "ds_numel", None) or parameter.numel()  # ZeRO-3 leaves an empty tensor of each
