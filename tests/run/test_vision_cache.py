"""With --vision_cache a frozen tower sees each image once, and a run learns exactly what it would learn without."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from minicpmv.errors import UsageError
from minicpmv.models.resampler import Resampler
from minicpmv.models.siglip import PatchEmbedding
from tests.run.test_training_parity import ZERO3
from tests.run.training import flags, losses, make_data, read_run, run_command, run_here
from tests.tiny import save_picture

_LOSS = 1e-5
_FROZEN = ["--tune_vision", "false", "--save_strategy", "no", "--lr_scheduler_type", "constant"]
_LORA = ["--use_lora", "--lora_r", "4"]
_ALL_FROZEN = [*_LORA, "--tune_resampler", "false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three records with a picture, one of them cut into tiles, and one of text alone."""
    return make_data(tmp_path_factory.mktemp("data"), num_records=4)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Patches that went through tower and resampler."""
    counted: Counter[str] = Counter()

    def count(name: str, kind: type[nn.Module]) -> None:
        original: Any = kind.forward

        def forward(self: nn.Module, rows: Tensor, *args: Any) -> Tensor:
            counted[name] += len(rows) if len(rows) > 1 else 0  # a single one stands for no picture
            return original(self, rows, *args)

        monkeypatch.setattr(kind, "forward", forward)

    count("tower", PatchEmbedding)
    count("resampler", Resampler)
    return counted


def train(data: str, output: Path, *extra: str, model: str = "v2_6", steps: int = 4) -> dict[str, Any]:
    """Train with a frozen tower; four steps are an epoch."""
    return run_here(flags(data, output, *_FROZEN, *extra, model=model, steps=steps))


@pytest.mark.parametrize("version", ["v2", "v2_5", "v2_6", "v4", "v4_5"])
@pytest.mark.parametrize("learns", [[], _ALL_FROZEN], ids=["full", "LoRA alone"])
def test_second_epoch_computes_nothing_and_losses_stay(
    version: str, learns: list[str], data: str, seen: Counter[str], tmp_path: Path
) -> None:
    without = train(data, tmp_path / "without", *learns, model=version, steps=8)
    twice = seen.copy()
    seen.clear()
    cached = [*learns, "--vision_cache", str(tmp_path / "cache")]
    run = train(data, tmp_path / "with", *cached, model=version, steps=8)
    assert losses(run) == pytest.approx(losses(without), abs=_LOSS)
    assert seen["tower"] == twice["tower"] / 2
    assert seen["resampler"] == twice["resampler"] / (2 if learns else 1)  # one that learns computes on


def test_second_run_sees_no_image(data: str, seen: Counter[str], tmp_path: Path, capsys: Any) -> None:
    """In bfloat16, with packed rows, workers and an evaluation, and with another seed."""
    cached = [*_LORA, "--bf16", "true", "--packing", "true", "--vision_cache", str(tmp_path / "cache")]
    cached += ["--dataloader_num_workers", "1", "--eval_data_path", data, "--eval_samples", "0"]
    train(data, tmp_path / "first", *cached, steps=1)
    assert seen["tower"] > 0
    seen.clear()
    again = train(data, tmp_path / "again", *cached, "--seed", "7", steps=2)
    assert seen["tower"] == 0
    assert "slices read, 0 computed" in capsys.readouterr().out
    uncached = [word for word in cached if word not in ("--vision_cache", str(tmp_path / "cache"))]
    without = train(data, tmp_path / "without", *uncached, "--seed", "7", steps=2)
    assert losses(again) == losses(without)
    assert again["metrics"]["eval_loss"] == pytest.approx(without["metrics"]["eval_loss"], abs=_LOSS)


@pytest.mark.parametrize("learns", [[], _ALL_FROZEN], ids=["full", "LoRA alone"])
@pytest.mark.parametrize("version", ["v2_5", "v2_6"])
def test_batch_of_known_and_unknown_images(
    version: str, learns: list[str], data: str, seen: Counter[str], tmp_path: Path
) -> None:
    cached = [*learns, "--vision_cache", str(tmp_path / "cache")]
    train(data, tmp_path / "first", *cached, model=version, steps=1)
    known = seen["tower"]
    seen.clear()
    batch = ["--per_device_train_batch_size", "4"]
    run = train(data, tmp_path / "with", *cached, *batch, model=version, steps=1)
    mixed = seen["tower"]
    without = train(data, tmp_path / "without", *learns, *batch, model=version, steps=1)
    assert losses(run) == pytest.approx(losses(without), abs=_LOSS)
    assert seen["tower"] - mixed == mixed + known
    assert known > 0
    assert mixed > 0


@pytest.mark.parametrize("changed", ["image", "weights", "slices", "precision", "resampler"])
def test_what_features_depend_on_is_seen_again(
    changed: str, seen: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path, num_records=1)
    cached = [*_ALL_FROZEN, "--vision_cache", str(tmp_path / "cache")]
    train(data, tmp_path / "first", *cached, steps=1)
    first = seen["tower"]
    model = "v2_6"
    if changed == "image":
        save_picture(tmp_path / "0.png", 56, 56, seed=99)
    elif changed == "weights":
        model = "v4"
    elif changed == "slices":
        data = make_data(tmp_path / "sliced", num_records=2)
        cached += ["--max_slice_nums", "1"]
    elif changed == "precision":
        cached += ["--bf16", "true"]
    else:
        cached = [*_LORA, *cached[-2:]]
    run = train(data, tmp_path / "again", *cached, model=model, steps=1)
    again = seen["tower"] - first
    assert (again > 0) is (changed != "slices"), "its first image is not cut into tiles either way"
    without = train(data, tmp_path / "without", *cached[:-2], model=model, steps=1)
    assert losses(run) == losses(without)
