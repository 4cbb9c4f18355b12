"""TRL's trainers take our model and processor; what they need beyond is in the driver, as an example (docs/trl.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Drive
from tests.parity.cases import FIXTURES
from tests.tiny import save_picture

pytestmark = pytest.mark.engines

LN_2 = 0.6931471806


def train(drive: Drive, folder: Path, trainer: str, *, lora: bool) -> dict[str, Any]:
    pictures = [save_picture(folder / f"{seed}.png", 60 + 20 * seed, seed=seed) for seed in range(4)]
    request = {"trainer": trainer, "model": str(FIXTURES / "v2_6"), "pictures": pictures, "lora": lora}
    return drive("trl", request)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_dpo_learns_to_prefer_the_chosen_answer(drive: Drive, tmp_path: Path, lora: bool) -> None:
    """Full: without a given reference, which TRL then loads from the model's directory."""
    found = train(drive, tmp_path, "dpo", lora=lora)
    assert found["loss"][0] == pytest.approx(LN_2, abs=1e-6), "policy and reference are equal before the first step"
    assert found["rewards.margins"][0] == pytest.approx(0, abs=1e-5)
    assert found["loss"][-1] < found["loss"][0]
    assert found["moved"] == found["trained"] > 0


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_grpo_takes_three_steps(drive: Drive, tmp_path: Path, lora: bool) -> None:
    found = train(drive, tmp_path, "grpo", lora=lora)
    assert len(found["loss"]) == 3
    assert found["reward"].max() > 0, "no completion was rewarded"
    assert found["grad_norm"].max() > 0
    assert found["moved"] == found["trained"] > 0
