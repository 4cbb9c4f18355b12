"""The steps that a model says it consists of are those of its forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minicpmv.models.networks.positions import axis_buckets, fraction_buckets, grid_position_ids
from minicpmv.models.networks.steps import Step, active
from minicpmv.models.skeleton import load_weights
from tests.tiny import FIXTURES

SIZES = [(8, 4), (4, 4), (4, 12)]


@pytest.mark.parametrize(
    ("version", "mode", "buckets", "table_side"),
    [
        ("v2_6", None, axis_buckets, "table_side"),
        ("v4_6", "16x", fraction_buckets, "num_patches_per_side"),
        ("v4_7", "4x", fraction_buckets, "num_patches_per_side"),
    ],
)
def test_vision_steps_one_after_the_other_make_image_tokens(
    version: str, mode: str | None, buckets: Callable[..., Any], table_side: str
) -> None:
    model: Any = load_weights(FIXTURES / version, dtype=torch.float32).eval()
    if mode is not None:
        model.config.downsample_mode = mode
    torch.manual_seed(0)
    patches = torch.randn(sum(rows * columns for rows, columns in SIZES), 588)
    places = grid_position_ids(SIZES, getattr(model.tower.embeddings, table_side), torch.device("cpu"), buckets)
    given: list[torch.Tensor] = [patches, places]
    steps = list(model.vision_steps(SIZES))
    with torch.no_grad():
        for step in steps:
            given = [step.compute(*given)]
        expected = model.get_image_features(patches, torch.tensor(SIZES))
    torch.testing.assert_close(given[0], expected, atol=1e-6, rtol=0)
    seen = {id(weight) for step in steps for module in step.modules for weight in module.parameters()}
    unread = {id(weight) for name in model.unread for weight in model.get_submodule(name).parameters()}
    there = {id(weight) for part in (model.tower, model.connector) for weight in part.parameters()}
    assert seen == there - unread


def test_language_steps_have_every_layer_once_and_end_in_a_loss() -> None:
    model: Any = load_weights(FIXTURES / "v4_6", dtype=torch.float32)
    steps = list(model.language_steps(20, 4, 7))
    assert [step.part for step in steps] == ["token embeddings", *["language model"] * len(model.layers), "loss"]
    assert [step.is_layer for step in steps] == [False, *[True] * len(model.layers), False]
    torch.manual_seed(0)
    given: list[torch.Tensor] = [torch.arange(20)[None], torch.arange(4), torch.randn(4, 64)]
    for step in steps:
        others = [torch.ones(shape, dtype=dtype) for shape, dtype in step.others]
        given = [step.compute(*given) if len(given) > 1 else step.compute(*given, *others)]
    (loss,) = given
    assert loss.ndim == 0
    assert torch.isfinite(loss)


def test_the_copy_that_learns_is_the_one_in_use() -> None:
    plain, copy = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    wrapper = torch.nn.Module()
    wrapper.modules_to_save = torch.nn.ModuleDict({"default": copy})
    assert active(wrapper) is copy
    assert active(plain) is plain
    assert Step("loss", [plain], plain).others == ()
