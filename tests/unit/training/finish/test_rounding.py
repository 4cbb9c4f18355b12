"""Stochastic rounding takes neighbours, on average the value itself; what is kept is measured along the change."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from minicpmv.models.checkpoints.own_tensors import OwnTensors
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.finish.rounding import Kept, measure_kept, round_stochastically, warn_of_loss
from tests.tiny import FIXTURES

_COUNT = 200_000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [1.0003, -1.0003, 1 - 1e-5, -3.3333, 3e-8, -3e-8, 1e-7])
def test_each_value_goes_to_a_neighbour_and_the_mean_is_kept(value: float, dtype: torch.dtype) -> None:
    values = torch.full((_COUNT,), value)
    rounded = round_stochastically(values, dtype, torch.Generator().manual_seed(0))
    found = sorted(rounded.unique().tolist())
    assert len(found) == 2
    assert found[0] <= values[0].item() <= found[1]
    gap = torch.tensor(found, dtype=dtype)
    assert torch.nextafter(gap[0].float(), torch.tensor(1e9)).to(dtype) in gap
    # Four deviations of the mean of as many draws; the nearest number is off by more than that.
    assert rounded.double().mean().item() == pytest.approx(values[0].item(), abs=4 * 0.5 * (found[1] - found[0]) / 447)
    again = round_stochastically(values, dtype, torch.Generator().manual_seed(0))
    assert torch.equal(again, rounded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_needs_no_rounding_stays_and_nothing_becomes_infinite(dtype: torch.dtype) -> None:
    exact = torch.tensor([0.0, -0.0, 1.0, -2.5, torch.finfo(dtype).max, torch.finfo(dtype).tiny], dtype=dtype)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(round_stochastically(exact.float(), dtype, generator), exact)
    almost = torch.full((1000,), 65_510.0)
    assert round_stochastically(almost, torch.float16, torch.Generator().manual_seed(0)).isfinite().all()


@pytest.mark.parametrize("model", ["v2", "v2_6"])  # v2 stores query, key and value in one tensor
def test_share_that_is_kept_is_measured_by_part(model: str) -> None:
    skeleton = build_skeleton(FIXTURES / model)
    before = load_model_tensors(model)
    change = {name: torch.full_like(tensor, 1e-3) for name, tensor in before.items()}
    trained = {name: tensor + change[name] for name, tensor in before.items()}
    half = {name: before[name] + (0.25 if "vpm" in name else 1.0) * change[name] for name in before}
    found = measure_kept(trained, half, FIXTURES / model, skeleton)
    assert found["vision tower"].kept == pytest.approx(0.25, abs=1e-3)
    assert found["vision tower"].error == pytest.approx(0.75, abs=1e-3)
    assert found["language model"].kept == pytest.approx(1.0, abs=1e-3)
    assert measure_kept(before, before, FIXTURES / model, skeleton) == {}


def load_model_tensors(model: str) -> dict[str, torch.Tensor]:
    own = OwnTensors(FIXTURES / model, build_skeleton(FIXTURES / model))
    assert own.files.outlines.keys() == load_file(FIXTURES / model / "model.safetensors").keys()
    return {name: own.read(name) for name in own.homes}


def test_warning_names_the_parts_below_nine_tenths() -> None:
    parts = {"resampler": Kept(0.899, 0.3), "vision tower": Kept(0.9, 0.3)}
    told = warn_of_loss(parts, torch.bfloat16)
    assert told is not None
    assert told.startswith("resampler: less than 90% of the training is left in bfloat16")
    assert "--save_dtype float32" in told
    assert warn_of_loss({"resampler": Kept(1.0, 0.0)}, torch.bfloat16) is None
