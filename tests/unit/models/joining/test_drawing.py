"""Several answers to one prompt: its pictures are seen once, and every answer has their tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minicpmv.models.joining.drawing import DrawsTokens
from tests.parity.native_cases import NATIVE, load_case, load_model


@pytest.mark.parametrize("version", NATIVE)
def test_each_answer_has_the_tokens_of_its_prompts_pictures(version: str) -> None:
    model: Any = load_model(version).eval()
    assert isinstance(model, DrawsTokens)
    prompt: dict[str, Any] = dict(load_case(version, "image_tiled.16x").prompt)
    prompt["position_ids"] = torch.arange(prompt["input_ids"].shape[1])[None]
    with torch.no_grad():
        ids, given = model._expand_inputs_for_generation(2, **prompt)
        features = model.get_image_features(prompt["pixel_values"], prompt["tgt_sizes"])
    assert ids.shape == (2, prompt["input_ids"].shape[1])
    assert "pixel_values" not in given
    torch.testing.assert_close(given["image_features"], torch.cat([features, features]))
    if "mrope_position_ids" in prompt:
        assert given["position_ids"].shape == (4, *ids.shape)


def test_pictures_go_to_the_first_step_alone() -> None:
    model: Any = load_model("v4_6").eval()
    prompt: dict[str, Any] = dict(load_case("v4_6", "image_tiled.16x").prompt)
    first = model.prepare_inputs_for_generation(**prompt, is_first_iteration=True, use_cache=True)
    later = model.prepare_inputs_for_generation(**prompt, is_first_iteration=False, use_cache=True)
    assert {"pixel_values", "tgt_sizes", "image_mask"} <= first.keys()
    assert not {"pixel_values", "tgt_sizes", "image_mask"} & later.keys()
