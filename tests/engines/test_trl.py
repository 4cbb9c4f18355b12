"""TRL's trainers take our model and processor; what they need beyond is in the driver, as an example (docs/trl.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.data.samples.collation import PackedCollator
from minicpmv.data.samples.compared import Comparison
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.demo.build import build_demo
from minicpmv.losses.batch import PreferenceLoss
from minicpmv.losses.mixture import parse_mixture
from minicpmv.losses.preference import How
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.objectives.objective import log_probs_of
from minicpmv.training.objectives.preference import Preference
from tests.engines.conftest import Drive
from tests.parity.cases import FIXTURES
from tests.tiny import save_picture

pytestmark = pytest.mark.engines

LN_2 = 0.6931471806
LIMIT = 1e-5


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


@pytest.fixture
def demo_batch(tmp_path: Path) -> dict[str, Any]:
    """Eight pairs of the demo with answers of different lengths; its model as reference, and one moved from it."""
    demo = build_demo(tmp_path / "demo")
    records: list[dict[str, Any]] = json.loads(demo.train.read_text(encoding="utf-8"))[:8]
    for number, record in enumerate(records):
        record["rejected"] = ("black", "it may be a seven", "a zero")[number % 3]
    pairs = demo.train.with_name("pairs.json")
    pairs.write_text(json.dumps(records), encoding="utf-8")
    moved = tmp_path / "moved"
    shutil.copytree(demo.model, moved)
    generator = torch.Generator().manual_seed(0)
    weights = {name: tensor.float() for name, tensor in load_file(moved / "model.safetensors").items()}
    for tensor in weights.values():
        tensor += 0.03 * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    return {"trainer": "dpo", "model": str(moved), "reference": str(demo.model), "pairs": str(pairs)}


def compute_ours(request: dict[str, Any]) -> dict[str, Any]:
    """What ``drive_trl.compute_batch`` computes, as a run with ``--objective dpo`` does it."""
    model, reference = (
        MiniCPMVForConditionalGeneration.from_pretrained(request[name], dtype=torch.float32)
        for name in ("model", "reference")
    )
    processor = MiniCPMVProcessor.from_pretrained(request["model"])
    dataset = ConversationDataset(
        load_records(request["pairs"]), processor, max_length=512, comparison=Comparison(kind="pair")
    )
    batch = PackedCollator(0, compares=True)([dataset[number] for number in range(len(dataset))])
    objective = Preference(
        PreferenceLoss(mixture=parse_mixture("sigmoid", flag="--preference_loss"), how=How(beta=0.1))
    )
    with torch.no_grad():
        batch["reference_log_probs"] = log_probs_of(reference, batch)
        told = objective.describe(objective.measure(model, batch).tolist())
    loss = objective.loss(model, batch, objective.count([batch["layout"]]))
    loss.backward()
    gradients = {
        f"gradient.{name}": weight.grad.numpy() for name, weight in model.named_parameters() if weight.grad is not None
    }
    return {name.replace("/", "."): value for name, value in told.items()} | gradients | {"loss": loss.item()}


def test_a_batch_of_the_demo_has_the_loss_rewards_and_gradients_of_trl(
    drive: Drive, demo_batch: dict[str, Any]
) -> None:
    """Its rows are two for each pair, each with the picture; ours hold both answers behind one question."""
    theirs, ours = drive("trl", demo_batch), compute_ours(demo_batch)
    assert abs(theirs["loss"] - LN_2) > 0.01, "the model has moved away from the reference"
    for name in ("loss", "rewards.chosen", "rewards.rejected", "rewards.margins", "rewards.accuracies"):
        assert ours[name] == pytest.approx(float(theirs[name]), abs=LIMIT), name
    names = [name for name in ours if name.startswith("gradient.")]
    assert names == [name for name in theirs if name.startswith("gradient.")]
    assert max(np.abs(ours[name] - theirs[name]).max() for name in names) < LIMIT
    largest = max(np.abs(theirs[name]).max() for name in names)
    assert largest > 1000 * LIMIT, "gradients are no smaller than what is allowed to differ"
    for name in names:
        size = np.linalg.norm(theirs[name])
        assert np.linalg.norm(ours[name] - theirs[name]) <= LIMIT * max(size, 1), name
