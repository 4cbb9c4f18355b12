"""``--release_gradients``: weights are updated inside the backward pass, and each gradient is freed when it was used.

The gradients of a model take 4 bytes for each weight that learns, nearly all of them at the end of a backward pass.
Here at most ``BUCKET`` of them wait for their update, so a step needs that much less. The updates are those of the
ordinary step: an optimizer leaves out weights without a gradient, and its state is that of each weight alone. What
needs all gradients at once, above all clipping, cannot be had (``flags.packages`` refuses it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BUCKET", "GradientRelease"]

BUCKET = 64 * 2**20
"""Bytes of gradients that are updated together: enough that an optimizer goes over its weights some hundred times."""


class GradientRelease:
    """Updates weights as their gradients come; the optimizer's own step is left the last bucket.

    Args:
        optimizer: The bare optimizer, of all weights that learn.
        model: The model. Its weights are hooked until :meth:`end`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        self._optimizer = optimizer
        self._names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
        self._norms: dict[str, Tensor] = {}
        self._waiting: list[Tensor] = []
        self._bytes = 0
        self._hooks: list[Any] = [
            weight.register_post_accumulate_grad_hook(self._take) for weight in self._names if weight.requires_grad
        ]

    def begin(self) -> None:
        """Forget the step before, whose last bucket was updated and freed by the trainer."""
        self._norms, self._waiting, self._bytes = {}, [], 0

    def _take(self, weight: Tensor) -> None:
        gradient = weight.grad
        assert gradient is not None, "torch calls this once a gradient is complete"
        name = self._names[weight]
        assert name not in self._norms, f"{name} has a second gradient in one step"
        self._norms[name] = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)
        self._waiting.append(weight)
        self._bytes += gradient.untyped_storage().nbytes()
        if self._bytes >= BUCKET:
            self._optimizer.step()
            for each in self._waiting:
                each.grad = None
            self._waiting, self._bytes = [], 0

    def norms(self) -> Mapping[str, Tensor]:
        """Return the norm of each gradient of the step, in the order of the model's weights."""
        return {name: self._norms[name] for name in self._names.values() if name in self._norms}

    def end(self) -> None:
        """Take the hooks off the weights."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
