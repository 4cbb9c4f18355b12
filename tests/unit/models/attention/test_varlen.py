"""Attention over sequences that lie end to end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.models.attention.varlen import attend

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def one_by_one(tensors: Tensors, query_lengths: list[int], key_lengths: list[int], **options: Any) -> torch.Tensor:
    query, key, value = tensors
    parts = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    heads_first = ((q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)) for q, k, v in parts)
    return torch.cat([scaled_dot_product_attention(q, k, v, **options).transpose(0, 1) for q, k, v in heads_first])


def random_case(query_lengths: list[int], key_lengths: list[int], *, heads: tuple[int, int] = (2, 2)) -> Tensors:
    generator = torch.Generator().manual_seed(0)

    def make(length: int, num_heads: int) -> torch.Tensor:
        return torch.randn(length, num_heads, 8, generator=generator, requires_grad=True)

    return make(sum(query_lengths), heads[0]), make(sum(key_lengths), heads[1]), make(sum(key_lengths), heads[1])


def test_each_sequence_sees_itself_alone_in_value_and_gradient() -> None:
    """Shapes repeat out of order, so grouping by shape must put every result back in its place."""
    query_lengths, key_lengths = [3, 5, 3, 1, 5], [4, 2, 4, 1, 2]
    ours, theirs = random_case(query_lengths, key_lengths), random_case(query_lengths, key_lengths)
    attended = attend(*ours, query_lengths=query_lengths, key_lengths=key_lengths)
    expected = one_by_one(theirs, query_lengths, key_lengths)
    torch.testing.assert_close(attended, expected)
    attended.square().sum().backward()
    expected.square().sum().backward()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_equal_shapes_take_the_single_call_to_the_same_result() -> None:
    tensors = random_case([4, 4, 4], [6, 6, 6])
    attended = attend(*tensors, query_lengths=[4, 4, 4], key_lengths=[6, 6, 6])
    torch.testing.assert_close(attended, one_by_one(tensors, [4, 4, 4], [6, 6, 6]))


@pytest.mark.parametrize("lengths", [[3, 5, 3, 1, 7], [4, 4]])
def test_causal_attention_with_shared_heads_equals_a_mask_written_out(lengths: list[int]) -> None:
    """One mask over everything, true where key and query share a sequence and the key is not later."""
    query, key, value = random_case(lengths, lengths, heads=(6, 2))
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (sequence[:, None] == sequence) & torch.ones(sum(lengths), sum(lengths), dtype=torch.bool).tril()
    scores = torch.einsum("qhk,shk->hqs", query, key.repeat_interleave(3, dim=1)) * 0.3
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    expected = torch.einsum("hqs,shk->qhk", weights, value.repeat_interleave(3, dim=1))
    attended = attend(query, key, value, query_lengths=lengths, key_lengths=lengths, is_causal=True, scale=0.3)
    torch.testing.assert_close(attended, expected)


def test_dropout_drops_whole_weights() -> None:
    """With a single key the weight is 1: an output is then zero or doubled, nothing between."""
    query, key, value = random_case([64], [1])
    torch.manual_seed(0)
    attended = attend(query, key, value, query_lengths=[64], key_lengths=[1], dropout=0.5)
    ratio = (attended / value).flatten()
    assert set(ratio.round(decimals=4).tolist()) == {0.0, 2.0}


@pytest.mark.gpu
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_variable_length_kernel_equals_one_sequence_at_a_time(dtype: torch.dtype, is_causal: bool) -> None:
    """72 channels are the released tower's; the bound is half precision's."""
    lengths = [3, 130, 64, 1, 257]
    generator = torch.Generator(device="cuda").manual_seed(0)
    tensors: Any = tuple(
        torch.randn(sum(lengths), heads, 72, generator=generator, device="cuda", dtype=dtype) for heads in (8, 2, 2)
    )
    attended = attend(*tensors, query_lengths=lengths, key_lengths=lengths, is_causal=is_causal)
    expected = one_by_one(tensors, lengths, lengths, is_causal=is_causal, enable_gqa=True)
    torch.testing.assert_close(attended, expected, atol=2e-2, rtol=2e-2)
