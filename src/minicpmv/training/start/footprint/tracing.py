"""Runs a module forward and backward without memory, and counts the bytes that it would allocate.

Tensors have shapes and types but no contents (torch's fake tensors), so a layer of any size takes milliseconds. The
count includes everything that autograd keeps for this module with these settings, adapters, dropout and autocast
included, so no formula has to follow the model's code. Scratch space inside a kernel is not counted.
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
    """Shape and type of a module's input tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    needs_gradient: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes that a tensor of this shape and type takes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Footprint(NamedTuple):
    """Bytes of one forward and backward pass, without parameters and inputs."""

    keeps_given: bool
    """Whether the first input is kept until the backward pass."""
    kept: int
    """Bytes kept from the forward until the backward pass, without copies of weights and the output."""
    kept_copies: int
    """Half-precision copies of weights that are also kept."""
    cached_copies: int
    """Copies of trained weights that autocast holds until the whole forward pass is over, kept or not."""
    result: Blank
    """Its output."""
    forward_peak: int
    """Peak of the forward pass, with kept tensors and output."""
    forward_copies: int
    """Copies of weights in that peak."""
    backward_peak: int
    """Peak of the backward pass, with the output's gradient instead of the output; 0 without a backward pass."""
    backward_copies: int
    backward_gradients: int
    """Gradients of parameters in that peak."""
    backward_peak_without: int
    """Peak of the backward pass if gradients of an earlier micro-batch exist, to which the new ones are added."""


class _Ledger(TorchDispatchMode):
    """Adds up the live storages."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.live = self.live_copies = self.cached_copies = 0
        self.live_gradients = 0
        self.reset()
        self._known: Any = WeakIdKeyDictionary()  # storage -> removes it from the sums when it is freed
        self._is_trained: Any = WeakIdKeyDictionary()  # a weight's storage -> whether it is trained
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
        """Reset the peaks."""
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
        modules: All modules with parameters. They may be on the ``meta`` device, and are unusable afterwards.
        compute: Takes a tensor for each of ``inputs``; calls the modules.
        inputs: Shapes and types of its arguments.
        autocast: Type of matrix products; None without autocast.
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
            kept = max(ledger.live - output - copies, 0)  # a result that is a view of an input has no bytes
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
            result=Blank(tuple(result.shape), result.dtype, result.requires_grad),
            forward_peak=forward_peak,
            forward_copies=forward_copies,
            backward_peak=max(peak - output, 0),
            backward_copies=peak_copies,
            backward_gradients=gradients,
            backward_peak_without=max(ledger.peak_without - output, 0),
        )


def _materialise(module: nn.Module) -> None:
    """Give a module fake weights on the CPU, which autocast supports, unlike the meta device."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                blank = torch.empty(weight.shape, dtype=weight.dtype)
                part._parameters[name] = nn.Parameter(blank, requires_grad=weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
