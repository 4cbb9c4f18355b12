from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from minicpmv.data.samples.cached_features import KnownFeatures
from minicpmv.models.networks.layout import Layout
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.inputs.vision_cache import FeatureWriter, find_features
from tests.tiny import FIXTURES

_KEY = "ab" * 32


def load(*, vision_width: int = 48) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(FIXTURES / "v2_6")
    config.vision_config.hidden_size, config.vision_config.num_attention_heads = vision_width, 2
    model = AutoModelForCausalLM.from_config(config).float()
    model.vpm.requires_grad_(False)
    return model


def find(model: Any, folder: Path, *, bf16: bool = False, mean: float = 0.5) -> KnownFeatures:
    needed = f"--model_name_or_path m --data_path d --output_dir o --vision_cache {folder}"
    args: Any = SimpleNamespace(device=torch.device("cpu"), bf16=bf16, fp16=False, tf32=None)
    processor = MiniCPMVImageProcessor.from_pretrained(FIXTURES / "v2_6", norm_mean=[mean] * 3)
    return find_features(parse_arguments(needed.split()).run, model, processor, args)


def test_same_weights_are_the_same_in_any_process(tmp_path: Path) -> None:
    first, second = find(load(), tmp_path), find(load(), tmp_path)
    assert first.made_by == second.made_by
    assert (first.kind, first.attends_padding) == ("tower_features", False)


def test_all_that_features_depend_on_has_another_digest(tmp_path: Path) -> None:
    other_weights, half = load(), load().to(torch.bfloat16)
    other_weights.vpm.encoder.layers[1].mlp.fc1.bias.data[3] += 1e-3
    found = [find(load(), tmp_path), find(load(), tmp_path, bf16=True), find(load(), tmp_path, mean=0.4)]
    found += [find(other_weights, tmp_path), find(half, tmp_path)]
    assert len({known.made_by for known in found}) == 5


def test_resampler_counts_only_where_it_is_frozen(tmp_path: Path) -> None:
    made_by: dict[bool, set[str]] = {True: set(), False: set()}
    for learns in (True, False):
        for change in (0.0, 1.0):
            model = load()
            model.resampler.query.data += change
            model.resampler.requires_grad_(learns)
            known = find(model, tmp_path)
            assert known.kind == ("tower_features" if learns else "image_features")
            made_by[learns].add(known.made_by)
    assert (len(made_by[True]), len(made_by[False])) == (1, 2)


@pytest.mark.parametrize(
    ("vision_width", "stored"), [(48, torch.bfloat16), (128, torch.float32)], ids=["linear", "none"]
)
def test_features_are_rounded_where_the_next_layer_does_so(
    vision_width: int, stored: torch.dtype, tmp_path: Path
) -> None:
    """Between equal widths the resampler has no linear layer, and its norm reads them as they are."""
    model = load(vision_width=vision_width)
    known = find(model, tmp_path, bf16=True)
    writer = FeatureWriter(model, known)
    batch = {
        "picture_keys": [list(bytes.fromhex(_KEY))],
        "slices_per_picture": [1],
        "layout": Layout(sizes=((2, 3),), known=(False,)),
    }
    writer.expect(batch)
    assert batch.keys() == {"layout"}
    pixels = torch.randn(6, 588)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model.get_image_features(pixels, torch.tensor([[2, 3]]))
    writer.wait()
    features = known.store.read(_KEY, 6)
    assert features is not None
    assert features.dtype == stored
    with torch.autocast("cpu", torch.bfloat16):
        again = model._run_vision(None, Layout(sizes=((2, 3),), known=(True,), tower_features=features), [1])
    assert torch.equal(again, tokens)
    assert writer.finish(torch.device("cpu")) == f"vision cache {tmp_path}: 0 slices read, 1 computed"
