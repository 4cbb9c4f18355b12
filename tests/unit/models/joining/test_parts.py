"""Every release's parts are found under the names that its row has for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from minicpmv.models.joining.model import JoinedModel
from minicpmv.models.joining.parts import HasParts
from minicpmv.models.skeleton import build_skeleton
from tests.tiny import FIXTURES


@pytest.mark.parametrize("version", ["v2", "v2_6", "v4_6", "v4_7"])
def test_parts_have_the_widths_of_the_config(version: str) -> None:
    model: Any = build_skeleton(FIXTURES / version)
    assert isinstance(model, JoinedModel)
    assert isinstance(model, HasParts)
    config = model.config
    assert len(model.layers) == config.text_config.num_hidden_layers
    assert model.head.weight.shape == (config.text_config.vocab_size, config.text_config.hidden_size)
    assert model.tower.post_layernorm.weight.shape == (config.vision_config.hidden_size,)
    assert model.get_output_embeddings() is model.head
    replaced = nn.Embedding(3, config.text_config.hidden_size)
    model.set_input_embeddings(replaced)
    assert model.get_input_embeddings() is replaced
    assert model.body.embed_tokens is replaced


@pytest.mark.parametrize("learns", [True, False])
def test_a_frozen_tower_is_not_run_backwards(learns: bool) -> None:
    model: Any = build_skeleton(FIXTURES / "v4_6").to_empty(device="cpu")
    model.requires_grad_(False)
    model.tower.post_layernorm.requires_grad_(learns)
    model.enable_input_require_grads()
    assert model.tower.get_input_embeddings()(torch.zeros(4, 588)).requires_grad is learns
    assert model.get_input_embeddings()(torch.zeros(1, 2, dtype=torch.int64)).requires_grad
