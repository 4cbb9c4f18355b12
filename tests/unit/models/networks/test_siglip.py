"""The vision tower: what a slice becomes depends on that slice alone, wherever it lies in a batch."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from transformers import SiglipVisionConfig

from minicpmv.models.networks.siglip import PatchEmbedding, VisionTower
from minicpmv.releases.row import PositionScheme

_SIZES = [(2, 3), (4, 1), (1, 5)]


def _tower(positions: PositionScheme) -> VisionTower:
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, patch_size=14, image_size=112
    )
    torch.manual_seed(0)
    return VisionTower(config, positions=positions).eval()


@pytest.mark.parametrize("positions", get_args(PositionScheme))
def test_a_slice_has_the_same_features_alone_and_among_others(positions: PositionScheme) -> None:
    tower = _tower(positions)
    lengths = [rows * columns for rows, columns in _SIZES]
    patches_P588 = torch.randn(sum(lengths), 588)
    together_PE = tower(patches_P588, _SIZES, [1, 1, 1])
    for size, own_L588, features_LE in zip(
        _SIZES, patches_P588.split(lengths), together_PE.split(lengths), strict=True
    ):
        torch.testing.assert_close(tower(own_L588, [size], [1]), features_LE, atol=1e-5, rtol=1e-5)


def test_the_patch_embedding_is_the_convolution_that_its_weight_was_stored_for() -> None:
    torch.manual_seed(0)
    embedding = PatchEmbedding(3, 8, kernel_size=14, stride=14)
    image_CHW = torch.randn(3, 14, 28)
    patches_P588 = image_CHW.unfold(2, 14, 14).permute(2, 0, 1, 3).flatten(1)
    expected_PE = torch.nn.functional.conv2d(image_CHW[None], embedding.weight, embedding.bias, stride=14)[0, :, 0].T
    torch.testing.assert_close(embedding(patches_P588), expected_PE, atol=1e-5, rtol=1e-5)
