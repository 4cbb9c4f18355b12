"""Runs a module forward and backward without memory, and counts what would be allocated.

Tensors have shapes and types but no contents (torch's fake tensors), so a layer of any size takes milliseconds. What is
counted is what autograd really keeps for this module with these settings, adapters, dropout and autocast included: no
formula has to follow the model's code. Scratch space inside a kernel is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["Blank", "Footprint", "trace"]


class Blank(NamedTuple):
    """A tensor to be made: what a module is given."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    needs_gradient: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes that a tensor of this shape and type takes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Footprint(NamedTuple):
    """Bytes of one forward and backward pass, without parameters and what was given."""

    keeps_given: bool
    """Whether the first tensor that was given is needed until the backward pass."""
    kept: int
    """From the forward until the backward pass, without copies of weights and the output."""
    kept_copies: int
    """Copies of weights in half precision that are kept likewise."""
    cached_copies: int
    """Copies of trained weights that autocast holds until the whole forward pass is over, kept or not."""
    output: int
    forward_peak: int
    """Most that is allocated at once, kept and output included."""
    forward_copies: int
    """Copies of weights among it."""
    backward_peak: int
    """The same in the backward pass, with the gradient of the output and not the output; 0 if there is none."""
    backward_copies: int
    backward_gradients: int
    """Gradients of parameters among it."""
    backward_peak_without: int
    """The peak where gradients are there already, from the micro-batch before, and the new ones are added to them."""


class _Ledger(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.live = self.live_copies = self.cached_copies = 0
        self.live_gradients = 0
        self.reset()
        self._known: Any = WeakIdKeyDictionary()  # storage -> takes it off the account when it goes
        self._is_trained: Any = WeakIdKeyDictionary()  # a weight's storage -> whether it learns
        for weight in weights:
            self._is_trained[weight.untyped_storage()] = weight.requires_grad

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_copy = func is torch.ops.aten._to_copy.default and args[0].untyped_storage() in self._is_trained
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._enter(tensor, is_copy=is_copy)
        if is_copy and self._is_trained[args[0].untyped_storage()]:
            self.cached_copies += result.untyped_storage().nbytes()
        return result

    def _enter(self, tensor: Tensor, *, is_copy: bool) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known or storage in self._is_trained:
            return
        size = storage.nbytes()
        self._known[storage] = weakref.finalize(storage, self._leave, size, is_copy)
        self.live += size
        self.live_copies += size * is_copy
        self._note()

    def _leave(self, size: int, is_copy: bool) -> None:
        self.live -= size
        self.live_copies -= size * is_copy

    def reset(self) -> None:
        """Forget the peaks."""
        self.peak = (0, 0, 0)
        self.peak_without = 0

    def _note(self) -> None:
        self.peak = max(self.peak, (self.live, self.live_copies, self.live_gradients))
        self.peak_without = max(self.peak_without, self.live - self.live_gradients)

    def settle(self, weight: Tensor) -> None:
        """Note that a weight's gradient is complete."""
        if weight.grad is not None:
            self.live_gradients += weight.grad.untyped_storage().nbytes()


def trace(
    modules: Sequence[nn.Module], compute: Callable[..., Tensor], *inputs: Blank, autocast: torch.dtype | None
) -> Footprint:
    """Count what a computation allocates.

    Args:
        modules: All that have parameters in it. They may be on the ``meta`` device, and are of no use afterwards.
        compute: Takes a tensor for each of ``inputs``; calls the modules.
        inputs: What it is given.
        autocast: The type that matrix products are computed in; None without autocast.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in modules:
            _materialise(module)
        weights = [weight for module in modules for weight in module.parameters()]
        # Clones, because a graph holds its leaves in any case.
        given = [
            torch.empty(each.shape, dtype=each.dtype, requires_grad=each.needs_gradient).clone() for each in inputs
        ]
        first = weakref.ref(given[0].untyped_storage())
        ledger = _Ledger(weights)
        for weight in weights:
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(ledger.settle)
        with ledger:
            with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                result = compute(*given)
            given.clear()
            output = result.untyped_storage().nbytes()
            copies, (forward_peak, forward_copies, _) = ledger.live_copies, ledger.peak
            kept = max(ledger.live - output - copies, 0)  # a result that is a view of what was given has no bytes
            keeps_given = first() is not None
            ledger.reset()
            if result.requires_grad:
                result.backward(torch.empty_like(result))
            peak, peak_copies, gradients = ledger.peak
        return Footprint(
            keeps_given=keeps_given,
            kept=kept,
            kept_copies=copies,
            cached_copies=ledger.cached_copies,
            output=output,
            forward_peak=forward_peak,
            forward_copies=forward_copies,
            backward_peak=max(peak - output, 0),
            backward_copies=peak_copies,
            backward_gradients=gradients,
            backward_peak_without=max(ledger.peak_without - output, 0),
        )


def _materialise(module: nn.Module) -> None:
    """Give a module fake weights on the CPU, which autocast knows, unlike the meta device."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                blank = torch.empty(weight.shape, dtype=weight.dtype)
                part._parameters[name] = nn.Parameter(blank, requires_grad=weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
