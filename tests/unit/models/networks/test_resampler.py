"""The resampler: a fixed number of tokens for each block, from the patches of that block alone."""

from __future__ import annotations

import pytest
import torch

from minicpmv.models.networks.resampler import Resampler

_SIZES = [(2, 3), (4, 4)]


def _resampler(*, query_positions: bool = False) -> Resampler:
    torch.manual_seed(0)
    made = Resampler(num_queries=4, vision_dim=8, language_dim=128, query_positions=query_positions).eval()
    for tensor in (*made.parameters(), *made.buffers()):
        if tensor.is_floating_point() and tensor.ndim > 1:
            torch.nn.init.normal_(tensor, std=0.2)
    return made


@pytest.mark.parametrize("query_positions", [False, True])
@torch.no_grad()
def test_a_slice_has_the_same_tokens_alone_and_beside_a_longer_one(query_positions: bool) -> None:
    resampler = _resampler(query_positions=query_positions)
    features_PE = torch.randn(6 + 16, 8)
    together_GQD = resampler(features_PE, _SIZES)
    assert together_GQD.shape == (2, 4, 128)
    torch.testing.assert_close(resampler(features_PE[:6], _SIZES[:1])[0], together_GQD[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_order_of_a_slices_patches_matters() -> None:
    resampler = _resampler()
    features_PE = torch.randn(16, 8)
    assert not torch.allclose(resampler(features_PE, [(4, 4)]), resampler(features_PE.flip(0), [(4, 4)]), atol=1e-3)


@torch.no_grad()
def test_frames_of_a_group_share_their_tokens() -> None:
    tokens_GQD = _resampler()(torch.randn(12, 8), [(2, 3), (2, 3)], temporal_ids=[(1, 0), (0, 1)])
    assert tokens_GQD.shape == (1, 4, 128)


@pytest.mark.parametrize("temporal_ids", [[(1, 0)], [(0, 0), (1, 1)], [(1, 0), (2, 1)]])
def test_times_that_do_not_describe_the_slices_are_refused(temporal_ids: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="expected one \\(opens, time\\) for each of 2 slices"):
        _resampler()(torch.randn(12, 8), [(2, 3), (2, 3)], temporal_ids=temporal_ids)
