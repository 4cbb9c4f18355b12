"""A release that is a row and what the row names: the same commands train, verify, ask and merge it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from minicpmv.cli.main import main
from tests.made_up.checkpoint import known, write_made_up, write_python
from tests.run.prepared import prepared_python
from tests.run.training import PLAIN, losses, make_data, read_run
from tests.tiny import picture, save_picture

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_FEW_STEPS = (
    f"{PLAIN} "
    "--max_steps 3 --logging_steps 1 --learning_rate 1e-3 --warmup_steps 0 --report_to none --data_cache false "
    "--report false --use_cpu true --model_max_length 256"
)


@pytest.fixture(scope="module", autouse=True)
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let this process and those that it starts know the release."""
    command = write_python(tmp_path_factory.mktemp("python") / "python", prepared_python())
    with pytest.MonkeyPatch.context() as patch, known():
        patch.setattr(sys, "executable", command)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_up(tmp_path_factory.mktemp("made_up") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def train(base: Path, data: str, output: Path, *flags: str) -> dict[str, Any]:
    words = ["--model_name_or_path", str(base), "--data_path", data, "--output_dir", str(output)]
    assert main(["train", *words, *_FEW_STEPS.split(), *flags]) == 0
    return read_run(output)


@pytest.fixture(scope="module")
def adapter(base: Path, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("lora") / "output"
    train(base, data, output, "--use_lora", "true", "--lora_r", "4", "--packing", "true")
    return output


def names_in(folder: Path, file: str = "model.safetensors") -> set[str]:
    with safe_open(folder / file, framework="pt") as tensors:
        return set(tensors.keys())


def answer(model: Path, shown: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["chat", str(model), "--image", shown, "What's this?", "--max-new-tokens", "8"]) == 0
    return capsys.readouterr().out


def test_its_memory_is_estimated(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["estimate", str(base), "--use_cpu", "true", "--model_max_length", "1024", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert max(row["slices"] for row in rows) > 0


def test_all_of_it_trains_and_what_is_saved_is_verified(base: Path, data: str, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "output", "--verify_saved", "true")
    result = json.loads((tmp_path / "output" / "verification.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "verified", result
    assert names_in(tmp_path / "output") == names_in(base)
    assert all(part["trainable"] == part["parameters"] for part in run["trained"]), run["trained"]


def test_an_adapter_is_put_on_the_parts_that_the_row_names(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert sorted(config["modules_to_save"]) == ["embed_tokens", "merger", "tower"]
    with_lora = {name for name in names_in(adapter, "adapter_model.safetensors") if ".lora_" in name}
    layer = r"base_model\.model\.speech\.model\.layers\.[01]\.self_attn\.[qkvo]_proj\.lora_[AB]\.weight"
    assert len(with_lora) == 16
    assert all(re.fullmatch(layer, name) for name in with_lora)


def test_an_adapter_and_what_it_is_merged_into_answer_alike(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = save_picture(tmp_path / "wide.png", 150, 80)
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    assert json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))["model_type"] == "made_up"
    found = answer(tmp_path / "merged", shown, capsys)
    assert found.strip()
    assert found == answer(adapter, shown, capsys)


def test_what_its_frozen_tower_has_seen_is_read_and_changes_no_loss(base: Path, data: str, tmp_path: Path) -> None:
    frozen = ["--tune_vision", "false", "--verify_saved", "false"]
    plain = train(base, data, tmp_path / "plain", *frozen)
    for output in ("first", "second"):
        kept = train(base, data, tmp_path / output, *frozen, "--vision_cache", str(tmp_path / "kept"))
        assert losses(kept) == losses(plain)


def test_a_slice_has_a_token_for_each_square_of_its_patches(base: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(base)
    model: Any = AutoModelForImageTextToText.from_pretrained(base)
    shown = [{"type": "image", "image": picture(150, 80)}, {"type": "text", "text": "What's this?"}]
    asked = processor.apply_chat_template([{"role": "user", "content": shown}])
    assert asked["tgt_sizes"].tolist() == [[2, 6], [4, 4], [4, 4], [4, 4]]
    assert int(asked["image_mask"].sum()) == 3 + 4 + 4 + 4
    assert model.get_image_features(asked["pixel_values"], asked["tgt_sizes"]).shape == (15, 128)
    written = processor.apply_chat_template([{"role": "user", "content": shown}], tokenize=False)
    part = f"<|part|>{4 * '<|pixel|>'}<|/part|>"
    expected = f"<|number|>0<|/number|><|picture|>{3 * '<|pixel|>'}<|/picture|>{3 * part}"
    assert written == f"<|asks|>{expected}What's this?<|answers|>"


def test_its_row_refuses_gguf(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(base), "--output", str(tmp_path / "gguf")]) == 2
    assert "llama.cpp has no code for what was made up" in capsys.readouterr().err
