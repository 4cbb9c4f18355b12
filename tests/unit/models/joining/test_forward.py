"""What comes to the forward pass and does not fit is refused, with what was found and what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minicpmv.models.joining.forward import JoinsPictures
from minicpmv.models.skeleton import load_weights
from tests.tiny import FIXTURES


@pytest.fixture(scope="module", params=["v2_6", "v4_6"])
def model(request: pytest.FixtureRequest) -> Any:
    return load_weights(FIXTURES / request.param).eval()


def test_rows_without_tokens_are_refused(model: Any) -> None:
    assert isinstance(model, JoinsPictures)
    with pytest.raises(ValueError, match="expected input_ids or inputs_embeds, got neither"):
        model(attention_mask=torch.ones(1, 3))


def test_slots_and_image_tokens_must_be_as_many(model: Any) -> None:
    ids = torch.ones(1, 9, dtype=torch.int64)
    mask = torch.arange(9)[None] < 3
    features = torch.zeros(2, model.config.text_config.hidden_size)
    with pytest.raises(ValueError, match="image_mask has 3 slots for 2 image tokens"):
        model(input_ids=ids, image_mask=mask, image_features=features)


def test_positions_on_a_canvas_are_refused_where_tokens_have_one_position_each(model: Any) -> None:
    ids = torch.ones(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"mrope_position_ids came to .*, whose tokens have one position each"):
        model(input_ids=ids, mrope_position_ids=torch.zeros(3, 1, 4, dtype=torch.int64))
