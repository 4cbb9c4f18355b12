"""Calls torch's variable-length attention kernel: where it may be used, and with which arguments.

``machine.kernels`` decides by the card; where it leaves that to a trial, the trial is made here, once for each device.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.devices.inspection import look_at
from minicpmv.machine.kernels import attention_kernel

__all__ = ["attend_by_kernel", "find_fault_of_kernel", "has_kernel"]

# Shape letters in this file
#   T tokens of all sequences    H heads    K channels of a head

_logger = logging.getLogger(__name__)

_WIDEST_HEAD, _HEAD_UNIT = 256, 8
_EVERYTHING, _NOTHING_LATER = (-1, -1), (-1, 0)
"""Windows of keys that a query sees, before and behind its own place; -1 is no limit."""


def has_kernel(query_THK: Tensor) -> bool:
    """Whether the kernel can take these queries, on this card."""
    return (
        query_THK.is_cuda
        and query_THK.dtype in (torch.float16, torch.bfloat16)
        and query_THK.shape[-1] <= _WIDEST_HEAD
        and query_THK.shape[-1] % _HEAD_UNIT == 0
        and _is_served(query_THK.device)
    )


def attend_by_kernel(
    query_THK: Tensor,
    key_THK: Tensor,
    value_THK: Tensor,
    query_places: Tensor,
    key_places: Tensor,
    longest: tuple[int, int],
    *,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    """Let every query see the keys of its own sequence.

    Args:
        query_THK: Queries of all sequences, end to end, on a device that has the kernel.
        key_THK: Keys, end to end; fewer heads serve as many query heads in a row.
        value_THK: Values, one for each key.
        query_places: Where each sequence of queries starts, and where the last one ends; int32, on the same device.
        key_places: The same of the keys.
        longest: Tokens of the longest sequence of queries, and of keys.
        is_causal: Whether a query sees only keys up to its own place.
        scale: Factor before the softmax; ``1 / sqrt(K)`` if not given.

    Returns:
        Shaped and typed as ``query_THK``.
    """
    options: dict[str, Any] = {"scale": scale, "window_size": _NOTHING_LATER if is_causal else _EVERYTHING}
    # torch 2.11 takes fewer key heads as they are; from 2.12 on it wants to be told.
    if "enable_gqa" in _parameters(varlen_attn):
        options["enable_gqa"] = query_THK.shape[1] != key_THK.shape[1]
    attended: Any = varlen_attn(query_THK, key_THK, value_THK, query_places, key_places, *longest, **options)
    return attended


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


@cache
def _is_served(device: torch.device) -> bool:
    accelerator = look_at(device)
    kernel = attention_kernel(accelerator).value
    if kernel != "probe":
        return kernel == "variable-length"
    found = find_fault_of_kernel(device)
    if found is not None:
        _logger.warning(
            "notice: attention on %s: the variable-length kernel %s, so sequences of one length are attended together",
            accelerator.name,
            found,
        )
    return found is None


def find_fault_of_kernel(device: torch.device) -> str | None:
    """Try the kernel on a small case, forward and backward; return what is wrong with it."""
    # In a thread of its own, because autocast, inference mode and the hooks of recomputation are a thread's.
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(_try, device).result()


def _try(device: torch.device) -> str | None:
    lengths, places = (3, 130, 64), torch.tensor([0, 3, 133, 197], dtype=torch.int32, device=device)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(sum(lengths), heads, 64, generator=generator).to(device, torch.float16).requires_grad_()
        for heads in (4, 2, 2)
    )
    weight = torch.randn(query.shape, generator=generator).to(device, torch.float16)
    for is_causal in (False, True):
        try:
            attended = attend_by_kernel(
                query, key, value, places, places, (max(lengths), max(lengths)), is_causal=is_causal, scale=None
            )
            found = [attended, *torch.autograd.grad((attended * weight).sum(), (query, key, value))]
        except RuntimeError as error:
            return f"refuses ({str(error).splitlines()[0]})"
        expected = _written_out(query, key, value, lengths, weight, is_causal=is_causal)
        if not all(
            torch.allclose(left, right, atol=2e-2, rtol=2e-2) for left, right in zip(found, expected, strict=True)
        ):
            return "computes something else"
    return None


def _written_out(
    query_THK: Tensor,
    key_THK: Tensor,
    value_THK: Tensor,
    lengths: tuple[int, ...],
    weight_THK: Tensor,
    *,
    is_causal: bool,
) -> list[Tensor]:
    """Attend one sequence after the other; return values and gradients."""
    parts = zip(*(each.split(list(lengths)) for each in (query_THK, key_THK, value_THK)), strict=True)
    attended_THK = torch.cat(
        [
            scaled_dot_product_attention(
                *(each.transpose(0, 1) for each in part), is_causal=is_causal, enable_gqa=True
            ).transpose(0, 1)
            for part in parts
        ]
    )
    return [attended_THK, *torch.autograd.grad((attended_THK * weight_THK).sum(), (query_THK, key_THK, value_THK))]
