"""Estimates how many bytes a checkpoint will take."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from minicpmv.models.checkpoints.carried import Carried

__all__ = ["estimate_bytes", "num_elements"]


def estimate_bytes(model: nn.Module, optimizer: Any) -> int:
    """Estimate the size of a checkpoint: its weights, and the optimizer's state as it is, or that of Adam.

    Args:
        model: With PEFT, only trained weights are saved.
        optimizer: The state of torch's own is counted; for another kind, which is sharded, a float32 copy and two
            moments are assumed for each trained weight.
    """
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    saved = trained if hasattr(model, "peft_config") else parameters
    states = getattr(optimizer, "state", None) or {}
    tensors = [value for state in states.values() for value in state.values() if isinstance(value, Tensor)]
    size = sum(num_elements(parameter) * parameter.element_size() for parameter in saved)
    carried: Carried | None = None if hasattr(model, "peft_config") else getattr(model, "carried", None)
    size += carried.num_bytes if carried is not None else 0
    if tensors:
        return size + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return size + 12 * sum(num_elements(parameter) for parameter in trained)


def num_elements(parameter: Any) -> int:
    """Count the elements of a parameter, unsharded."""
    return getattr(parameter, "ds_numel", None) or parameter.numel()  # ZeRO-3 leaves empty tensors
