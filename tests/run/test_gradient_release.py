"""Gradients that are released as they are used lead to the weights, numbers and checkpoints of the ordinary step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.training.learning import gradient_release
from tests.run.training import flags, losses, make_data, run_here, same_bytes

_RELEASED = ("--release_gradients", "true")
_LORA = ("--use_lora", "true", "--lora_r", "4")
_KEPT = ("--max_grad_norm", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=8)


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of the gradients that exist at each update."""
    found: list[int] = []
    monkeypatch.setattr(gradient_release, "BUCKET", _SMALL)
    original: Any = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        gradients = [weight.grad for group in self.param_groups for weight in group["params"]]
        found.append(sum(each.untyped_storage().nbytes() for each in gradients if each is not None))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return found


_SMALL = 20_000
"""Bytes. A bucket of the tiny model, whose largest gradient has 262,144."""


def measured(run: dict[str, Any]) -> list[dict[str, float]]:
    return [{name: each for name, each in entry.items() if name.startswith("grad_norm")} for entry in run["log"]]


@pytest.mark.parametrize(
    ("extra", "weights"),
    [
        pytest.param((), "model.safetensors", marks=pytest.mark.slow),
        (("--activation_checkpointing", "true"), "model.safetensors"),
        pytest.param(_LORA, "adapter_model.safetensors", marks=pytest.mark.slow),
    ],
    ids=["full", "full, recomputed", "LoRA"],
)
def test_the_weights_are_those_of_the_ordinary_step(
    extra: tuple[str, ...], weights: str, data: str, tmp_path: Path, updates: list[int]
) -> None:
    kept = run_here(flags(data, tmp_path / "kept", *extra, *_KEPT))
    assert len(updates) == 4
    whole = max(updates)
    updates.clear()
    released = run_here(flags(data, tmp_path / "released", *extra, *_RELEASED))
    assert len(updates) > 20
    assert max(updates) < whole / 2
    assert losses(released) == losses(kept)
    assert same_bytes(tmp_path / "released" / weights, tmp_path / "kept" / weights)
    for ours, theirs in zip(measured(released), measured(kept), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)  # sums of squares, in another order


@pytest.mark.usefixtures("updates")
def test_a_run_that_is_resumed_ends_with_the_weights_of_an_uninterrupted_one(data: str, tmp_path: Path) -> None:
    extra = (*_RELEASED, "--save_steps", "2", "--lr_scheduler_type", "constant")
    run_here(flags(data, tmp_path / "whole", *extra))
    run_here(flags(data, tmp_path / "parts", *extra, steps=2))
    run_here(flags(data, tmp_path / "parts", *extra, "--resume_from_checkpoint", "true"))
    assert same_bytes(tmp_path / "parts" / "model.safetensors", tmp_path / "whole" / "model.safetensors")


@pytest.mark.usefixtures("updates")
def test_an_ordinary_run_goes_on_from_the_checkpoint_of_one_that_released(data: str, tmp_path: Path) -> None:
    extra = ("--save_steps", "2", "--lr_scheduler_type", "constant")
    run_here(flags(data, tmp_path / "whole", *extra, *_KEPT))
    run_here(flags(data, tmp_path / "parts", *extra, *_RELEASED, steps=2))
    run_here(flags(data, tmp_path / "parts", *extra, *_KEPT, "--resume_from_checkpoint", "true"))
    assert same_bytes(tmp_path / "parts" / "model.safetensors", tmp_path / "whole" / "model.safetensors")
