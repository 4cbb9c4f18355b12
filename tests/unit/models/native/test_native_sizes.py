"""4.6 and 4.7 in their released sizes, without weights: totals, presets of LoRA, what learns."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from minicpmv.models.networks.flops import flops_of_each
from minicpmv.releases.row import DEFAULT_LORA_TARGET, find_code
from minicpmv.releases.table import VERSIONS
from minicpmv.training.learning.parts import leave_out_unread, summarise_parts
from minicpmv.training.learning.targets import resolve_target
from tests.released_sizes import NATIVE

TOTALS = {"4.6": 1_300_428_016, "4.7-A3B": 35_213_596_720}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    made = {}
    for name, fields in NATIVE.items():
        network = VERSIONS[name].network
        with torch.device("meta"):
            made[name] = find_code(network.model)(find_code(network.config)(**fields))
    return made


@pytest.mark.parametrize("name", NATIVE)
def test_totals_are_the_released_ones(models: dict[str, Any], name: str) -> None:
    assert models[name].config.minicpmv_version.name == name
    assert sum(parameter.numel() for parameter in models[name].parameters()) == TOTALS[name]
    assert sum(row.parameters for row in summarise_parts(models[name])) == TOTALS[name]


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("written", [DEFAULT_LORA_TARGET, "attention", "all-linear"])
def test_presets_of_lora_reach_every_layer_of_the_language_model(
    models: dict[str, Any], name: str, written: str
) -> None:
    network = VERSIONS[name].network
    target = re.compile(resolve_target(written, network))
    hits = [module for module, _ in models[name].named_modules() if target.fullmatch(module)]
    numbers = {int(hit.removeprefix(f"{network.parts.layers}.").split(".")[0]) for hit in hits}
    assert numbers == set(range(len(models[name].layers)))
    assert all(hit.startswith(f"{network.parts.language_model}.") for hit in hits), "vLLM serves the language model's"
    assert all(isinstance(models[name].get_submodule(hit), torch.nn.Linear) for hit in hits)


def test_what_a_tower_without_merging_does_not_read_is_not_trained(models: dict[str, Any]) -> None:
    model = models["4.6"].requires_grad_(True)
    for mode, frozen in (("16x", 0), ("4x", 104_507_072)):
        model.config.downsample_mode = mode
        leave_out_unread(model)
        assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == frozen
    model.config.downsample_mode = "16x"
    model.requires_grad_(True)


def test_flops_are_about_six_for_each_parameter_and_token(models: dict[str, Any]) -> None:
    """Forward, and both gradients. A patch goes through the later layers as a quarter of itself."""
    model = models["4.6"]
    cost = flops_of_each(model.config, model.named_parameters(remove_duplicate=False))
    state = 18 * 2 * 6 * 3 * 2048 * 128 // 2
    assert cost.tokens == pytest.approx(6 * 498_113_344 + state, rel=0.01)
    assert cost.labelled_tokens == 6 * 1024 * 248_094
    layer = 4 * 1152**2 + 2 * 1152 * 4304
    inside = 4 * 1152**2 + (4 * 1152 * 17216 + 17216 * 1152) / 4
    assert cost.patches == pytest.approx(6 * (layer * (7 + 20 / 4) + inside), rel=0.01)
    assert cost.resampled_patches == pytest.approx(6 * (4608**2 + 4608 * 1024) / 16, rel=0.01)
    mixture = flops_of_each(models["4.7-A3B"].config, models["4.7-A3B"].named_parameters(remove_duplicate=False))
    assert mixture.tokens / 6 == pytest.approx(3e9, rel=0.25), "of 35 billion about 3 compute a token"
