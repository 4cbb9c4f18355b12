"""Pictures of a batch: the smallest there is where there are none, and what does not add up is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minicpmv.models.joining.seeing import SeesPictures
from minicpmv.models.networks.layout import Layout
from tests.parity.native_cases import load_model


@pytest.mark.parametrize(("mode", "side"), [("16x", 4), ("4x", 2)])
def test_the_smallest_picture_is_one_token(mode: str, side: int) -> None:
    model = load_model("v4_6", mode)
    assert isinstance(model, SeesPictures)
    assert model.blank_size == (side, side)
    tokens = model.get_image_features(torch.zeros(side**2, 588), torch.tensor([[side, side]]))
    assert tokens.shape == (1, model.config.text_config.hidden_size)
    nothing = model._see_nothing(torch.device("cpu"))
    assert (nothing.item(), nothing.requires_grad) == (0.0, True)


def test_patches_and_sizes_must_agree() -> None:
    model: Any = load_model("v4_6")
    with pytest.raises(ValueError, match="tgt_sizes describe 16 patches, pixel_values hold 12"):
        model.get_image_features(torch.zeros(12, 588), torch.tensor([[4, 4]]))
    with pytest.raises(ValueError, match="has no time"):
        model.get_image_features(torch.zeros(16, 588), torch.tensor([[4, 4]]), temporal_ids=torch.tensor([[1, 0]]))
    with pytest.raises(ValueError, match="known slices without tower_features"):
        model._run_vision(None, Layout(sizes=((4, 4),), known=(True,)), [1])
