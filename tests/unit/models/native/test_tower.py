"""Towers of 4.6 and 4.7 on slices of several sizes: each as alone, and sizes that no window divides are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minicpmv.models.native.tower import NativeMerger, NativeTower, halve, merges_inside
from tests.parity.native_cases import load_model

SIZES = [(8, 4), (4, 4), (12, 8), (4, 4)]


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("v4_6").eval()


@pytest.mark.parametrize(("mode", "patches_each"), [("16x", 4), ("4x", 1)])
def test_features_of_each_slice_are_those_of_the_slice_alone(model: Any, mode: str, patches_each: int) -> None:
    model.config.downsample_mode = mode
    torch.manual_seed(0)
    patches = torch.randn(sum(rows * columns for rows, columns in SIZES), 588)
    with torch.no_grad():
        together = model.tower(patches, SIZES, [len(SIZES)])
        counts = [rows * columns for rows, columns in SIZES]
        alone = [model.tower(part, [size], [1]) for part, size in zip(patches.split(counts), SIZES, strict=True)]
    assert isinstance(model.tower, NativeTower)
    assert merges_inside(model.config) is (mode == "16x")
    assert [len(each) for each in alone] == [count // patches_each for count in counts]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_tokens_of_each_slice_are_those_of_the_slice_alone(model: Any) -> None:
    model.config.downsample_mode = "16x"
    seen = halve(SIZES)
    counts = [rows * columns for rows, columns in seen]
    torch.manual_seed(0)
    features = torch.randn(sum(counts), model.config.vision_config.hidden_size)
    with torch.no_grad():
        together = model.connector(features, seen)
        alone = [model.connector(part, [size]) for part, size in zip(features.split(counts), seen, strict=True)]
    assert isinstance(model.connector, NativeMerger)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


def test_a_side_that_no_window_divides_is_refused() -> None:
    assert halve([(4, 6), (2, 8)]) == [(2, 3), (1, 4)]
    with pytest.raises(ValueError, match="found a slice of 4 x 5 patches, expected sides"):
        halve([(2, 2), (4, 5)])
