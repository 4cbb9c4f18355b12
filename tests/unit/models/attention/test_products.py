"""Gradients of attention as matrix products, beside those that autograd finds for attention written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.models.attention import products as attention_products
from minicpmv.models.attention import varlen as attention
from minicpmv.models.attention.products import attend_by_products
from minicpmv.models.attention.varlen import attend

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_case(shape: tuple[int, int, int], kv_shape: tuple[int, int, int], dtype: torch.dtype) -> Tensors:
    """Heads, tokens, and channels of queries, and of keys and values, for two sequences."""
    generator = torch.Generator().manual_seed(0)

    def make(shape: tuple[int, int, int]) -> torch.Tensor:
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return make(shape), make(kv_shape), make(kv_shape)


def gradients(attended: torch.Tensor, tensors: Tensors) -> list[torch.Tensor]:
    weight = torch.randn(attended.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return list(torch.autograd.grad((attended.double() * weight).sum(), tensors))


@pytest.mark.parametrize("weights_at_once", [1, 2**10, 2**21], ids=["smallest blocks", "some heads", "one block"])
@pytest.mark.parametrize(
    ("shape", "kv_shape", "is_causal"),
    [((4, 300, 8), (4, 300, 8), False), ((6, 300, 8), (2, 300, 8), True), ((4, 5, 8), (2, 300, 8), False)],
    ids=["tower", "language model", "resampler"],
)
def test_gradients_are_those_of_attention_in_every_partition(
    monkeypatch: pytest.MonkeyPatch,
    weights_at_once: int,
    shape: tuple[int, int, int],
    kv_shape: tuple[int, int, int],
    is_causal: bool,
) -> None:
    monkeypatch.setattr(attention_products, "_WEIGHTS_AT_ONCE", weights_at_once)
    tensors = random_case(shape, kv_shape, torch.float64)
    attended = attend_by_products(*tensors, is_causal=is_causal, scale=0.3)
    expected = scaled_dot_product_attention(*tensors, is_causal=is_causal, scale=0.3, enable_gqa=True)
    assert torch.equal(attended, expected)
    for ours, theirs in zip(gradients(attended, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-7, rtol=1e-5)  # sums of blocks are float32


def test_in_bfloat16_they_are_nearly_as_exact_as_torchs_own() -> None:
    tensors = random_case((4, 300, 64), (2, 300, 64), torch.bfloat16)
    query, key, value = (each.detach().double().requires_grad_() for each in tensors)
    exact_tensors = (query, key, value)
    exact = gradients(scaled_dot_product_attention(*exact_tensors, is_causal=True, enable_gqa=True), exact_tensors)
    ours = gradients(attend_by_products(*tensors, is_causal=True, scale=None), tensors)
    theirs = gradients(scaled_dot_product_attention(*tensors, is_causal=True, enable_gqa=True), tensors)

    def error(found: list[torch.Tensor]) -> float:
        return max(((mine - real).norm() / real.norm()).item() for mine, real in zip(found, exact, strict=True))

    assert error(ours) < 1.5 * error(theirs) < 0.02


@pytest.mark.parametrize("autocast", [True, False])
def test_attention_that_learns_in_bfloat16_takes_them(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    taken: list[torch.dtype] = []

    def watch(query: torch.Tensor, *others: torch.Tensor, is_causal: bool, scale: float | None) -> torch.Tensor:
        taken.append(query.dtype)
        return attend_by_products(query, *others, is_causal=is_causal, scale=scale)

    monkeypatch.setattr(attention, "attend_by_products", watch)
    monkeypatch.setattr(attention, "PRODUCTS_ARE_FASTER", True)
    query, key, value = (each[0].transpose(0, 1) for each in random_case((4, 7, 8), (2, 7, 8), torch.float32))
    lengths: Any = {"query_lengths": [3, 4], "key_lengths": [3, 4]}
    attend(query, key, value, **lengths)
    assert not taken, "float32 is not what they are for"
    if not autocast:
        query, key, value = (each.bfloat16() for each in (query, key, value))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        attended = attend(query, key, value, **lengths)
        assert taken == [torch.bfloat16] * 2
        with torch.no_grad():
            assert torch.equal(attend(query, key, value, **lengths), attended)
    assert attended.dtype == torch.bfloat16
    assert taken == [torch.bfloat16] * 2, "nothing is learned there"
