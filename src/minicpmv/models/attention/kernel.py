"""Calls torch's variable-length attention kernel: where it may be used, and with which arguments.

``machine.kernels`` decides by the card; where it leaves that to a trial, the trial is made here, once for each device.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.devices.inspection import look_at
from minicpmv.machine.kernels import attention_kernel

__all__ = ["aligns_at_the_end", "attend_by_kernel", "find_fault_of_kernel", "has_kernel"]

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
        is_causal: Whether a query sees only keys up to its own place; the last query and the last key of a sequence are
            at the same place, where :func:`aligns_at_the_end`.
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


@cache
def aligns_at_the_end(device: torch.device) -> bool:
    """Whether a causal sequence with more keys than queries ends with both, tried once for each device.

    flash-attention's own documentation says so, torch's says nothing.
    """
    found = find_fault_of_kernel(device, is_branched=True)
    if found is not None:
        _logger.warning(
            "notice: attention on %s: the variable-length kernel %s where two answers see one prompt, so these are "
            "attended without it",
            look_at(device).name,
            found,
        )
    return found is None


def find_fault_of_kernel(device: torch.device, *, is_branched: bool = False) -> str | None:
    """Try the kernel on a small case, forward and backward; return what is wrong with it.

    Args:
        device: Where to try it.
        is_branched: Whether to try sequences with more keys than queries.
    """
    # In a thread of its own, because autocast, inference mode and the hooks of recomputation are a thread's.
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(_try, device, is_branched).result()


def _try(device: torch.device, is_branched: bool) -> str | None:
    lengths = (3, 130, 64)
    key_lengths = (40, 130, 150) if is_branched else lengths
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(sum(of_each), heads, 64, generator=generator).to(device, torch.float16).requires_grad_()
        for of_each, heads in ((lengths, 4), (key_lengths, 2), (key_lengths, 2))
    )
    weight = torch.randn(query.shape, generator=generator).to(device, torch.float16)
    places, key_places = (
        torch.tensor([0, *accumulate(of_each)], dtype=torch.int32, device=device) for of_each in (lengths, key_lengths)
    )
    longest = max(lengths), max(key_lengths)
    for is_causal in (False, True):
        try:
            attended = attend_by_kernel(query, key, value, places, key_places, longest, is_causal=is_causal, scale=None)
            found = [attended, *torch.autograd.grad((attended * weight).sum(), (query, key, value))]
        except RuntimeError as error:
            return f"refuses ({str(error).splitlines()[0]})"
        expected = _written_out(query, key, value, (lengths, key_lengths), weight, is_causal=is_causal)
        if not all(
            torch.allclose(left, right, atol=2e-2, rtol=2e-2) for left, right in zip(found, expected, strict=True)
        ):
            return "computes something else"
    return None


def _written_out(
    query_THK: Tensor,
    key_THK: Tensor,
    value_THK: Tensor,
    lengths: tuple[tuple[int, ...], tuple[int, ...]],
    weight_THK: Tensor,
    *,
    is_causal: bool,
) -> list[Tensor]:
    """Attend one sequence after the other; return values and gradients."""
    own, seen = lengths
    split = zip((query_THK, key_THK, value_THK), (own, seen, seen), strict=True)
    attended = []
    for part in zip(*(each.split(list(of_each)) for each, of_each in split), strict=True):
        query, key, value = (each.transpose(0, 1) for each in part)
        mask = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool, device=key.device)
        mask = mask.tril(key.shape[1] - query.shape[1]) if is_causal else mask
        attended.append(scaled_dot_product_attention(query, key, value, mask, enable_gqa=True).transpose(0, 1))
    attended_THK = torch.cat(attended)
    return [attended_THK, *torch.autograd.grad((attended_THK * weight_THK).sum(), (query_THK, key_THK, value_THK))]
