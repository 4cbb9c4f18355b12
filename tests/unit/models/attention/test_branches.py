"""Branches: which keys each query sees, and where tokens lie among them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.models.attention.branches import Branches
from minicpmv.models.attention.varlen import attend

CPU = torch.device("cpu")
ROWS = Branches([5, 2, 4, 3], prefixes=[(0, 0), (0, 3), (0, 0), (7, 2)])
"""A prompt of 3 with answers of 2 and 2, then a prompt of 2 with answers of 2 and 3."""


def test_a_branch_sees_what_it_continues_and_itself() -> None:
    assert list(ROWS.keys) == [5, 5, 4, 5]
    seen = ROWS.key_places(CPU).split(list(ROWS.keys))
    assert [each.tolist() for each in seen] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 5, 6],
        [7, 8, 9, 10],
        [7, 8, 11, 12, 13],
    ]


def test_queries_are_found_again_among_the_keys() -> None:
    assert ROWS.key_places(CPU)[ROWS.query_places(CPU)].tolist() == list(range(14))


def test_places_are_made_once() -> None:
    assert ROWS.key_places(CPU) is ROWS.key_places(CPU)


def test_what_stands_behind_cannot_be_continued() -> None:
    with pytest.raises(AssertionError):
        Branches([3, 2], prefixes=[(2, 3), (0, 3)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_more_keys_than_queries_ends_with_both(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(14, heads, 8, generator=generator).to(dtype) for heads in (4, 2, 2))
    query.requires_grad_()
    places = ROWS.key_places(CPU)
    found = attend(query, key[places], value[places], query_lengths=ROWS, key_lengths=ROWS.keys, is_causal=True).split(
        list(ROWS)
    )
    for number, seen in enumerate(places.split(list(ROWS.keys))):
        own, theirs, given = (each[seen].transpose(0, 1) for each in (query, key, value))
        expected = scaled_dot_product_attention(own, theirs, given, is_causal=True, enable_gqa=True).transpose(0, 1)
        bound = 1e-6 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found[number], expected[-ROWS[number] :], atol=bound, rtol=0)
