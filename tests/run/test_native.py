"""MiniCPM-V 4.6 and 4.7 through the commands: packed, resumed, merged, and read where this package is not."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minicpmv.cli.main import main
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.inference.loading import load_model, load_processor
from tests.parity.native_cases import last_logits, logits_without_us
from tests.precision import bound
from tests.run import forked
from tests.run.training import flags, largest_difference, losses, make_data, read_run, run_here, same_bytes
from tests.tiny import FIXTURES, save_picture

_PACKED = ("--packing", "true", "--model_max_length", "256")
_LORA = ("--use_lora", "--lora_r", "4", "--lora_dropout", "0")
_PROVED = ("--verify_saved", "true")
_IN_FULL = ("--save_dtype", "float32")
_NEXT = {"v4_6": "4.6", "v4_7": "4.7-1B"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def words(data: str, output: Path, *extra: str, model: str, steps: int = 3) -> list[str]:
    return flags(data, output, "--use_cpu", "true", *extra, model=model, steps=steps)


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def answer(model: Path, shown: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["chat", str(model), "--image", shown, "What's this?", "--max-new-tokens", "8", "--device", "cpu"]) == 0
    return capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("version", ["v4_6", pytest.param("v4_7", marks=pytest.mark.slow)])
def test_an_adapter_and_what_it_is_merged_into_answer_alike_with_and_without_this_package(
    version: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    run = run_here(words(data, adapter, *_PACKED, *_LORA, *_PROVED, model=version))
    told = capsys.readouterr().out
    assert run["plan"]["records_per_step"] > 1
    assert read_json(adapter / "verification.json")["verdict"] == "verified"
    how = {row["part"]: row["how"] for row in run["trained"]}
    is_tied = version == "v4_6"
    assert ("--tune_embeddings: false, although the official recipe trains them" in told) is is_tied
    assert (how["token embeddings"], how["output head"]) == (("frozen", "tied") if is_tied else ("full", "frozen"))
    assert how["language model"] == "LoRA"
    assert main(["merge", str(adapter), str(merged), "--dtype", "float32"]) == 0
    base = FIXTURES / version
    assert read_json(merged / "config.json") == read_json(base / "config.json") | {"dtype": "float32"}
    shown = save_picture(tmp_path / "wide.png", 150, 80)
    assert answer(merged, shown, capsys) == answer(adapter, shown, capsys)
    ours = last_logits(load_model(adapter, device="cpu", dtype=torch.float32).model, version)
    torch.testing.assert_close(logits_without_us(merged, version), ours, atol=5e-5, rtol=0)
    assert (last_logits(load_model(base, device="cpu", dtype=torch.float32).model, version) - ours).abs().max() > 0.01


@pytest.mark.long
@pytest.mark.parametrize("version", ["v4_7", pytest.param("v4_6", marks=pytest.mark.slow)])
def test_all_of_it_trains_packed_and_goes_on_from_a_checkpoint_as_if_uninterrupted(
    version: str, data: str, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extra = [*_PACKED, *_IN_FULL, "--save_steps", "2", "--save_total_limit", "5", *_PROVED]
    run = run_here(words(data, whole, *extra, model=version))
    assert read_json(whole / "verification.json")["verdict"] == "verified"
    assert {row["how"] for row in run["trained"]} == ({"full", "tied"} if version == "v4_6" else {"full"})
    first, *_, last = losses(run)
    assert last < first
    before, after = (load_file(folder / "model.safetensors") for folder in (FIXTURES / version, whole))
    assert after.keys() == before.keys()
    still = {name for name in before if torch.equal(before[name].float(), after[name].float())}
    assert still == set(), "every tensor learns"
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    run_here(words(data, stopped, *extra, "--resume_from_checkpoint", "true", "--verify_saved", "false", model=version))
    assert same_bytes(stopped / "model.safetensors", whole / "model.safetensors")
    ours = last_logits(load_model(whole, device="cpu", dtype=torch.float32).model, version)
    torch.testing.assert_close(logits_without_us(whole, version), ours, atol=5e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v4_6", "v4_7"])
def test_what_is_saved_unasked_keeps_the_precisions_of_the_base(version: str, data: str, tmp_path: Path) -> None:
    """The defaults of full training: 4.7's states stay in float32 beside bfloat16, as released."""
    run_here(words(data, tmp_path, *_PROVED, model=version))
    assert read_json(tmp_path / "verification.json")["verdict"] == "verified"
    assert read_json(tmp_path / "config.json") == read_json(FIXTURES / version / "config.json")
    before, after = (load_file(folder / "model.safetensors") for folder in (FIXTURES / version, tmp_path))
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: each.dtype for name, each in before.items()}


@pytest.mark.parametrize("version", ["v4_6", pytest.param("v4_7", marks=pytest.mark.slow)])
def test_chosen_tokens_for_each_picture_are_stated_in_what_is_saved_and_used_by_chat(
    version: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    shown = save_picture(tmp_path / "wide.png", 150, 80)
    for output, extra in ((whole, _IN_FULL), (adapter, _LORA)):
        run_here(words(data, output, "--downsample_mode", "4x", *extra, model=version, steps=1))
        processor: Any = load_processor(output)
        assert processor.image_processor.downsample_mode == "4x"
        assert load_model(output, device="cpu").model.config.downsample_mode == "4x"
        assert answer(output, shown, capsys).strip()
    for name in ("config.json", "preprocessor_config.json"):
        assert read_json(whole / name)["downsample_mode"] == "4x", name
    assert read_json(adapter / "base_model.json")["downsample_mode"] == "4x"


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_command(data: str, tmp_path: Path) -> None:
    extra = [*_PACKED, *_IN_FULL, "--save_steps", "1"]
    arguments = words(data, tmp_path / "killed", *extra, model="v4_7", steps=5)
    log = tmp_path / "log"
    process = forked.start(arguments, log=log)
    deadline = time.monotonic() + 240
    while not list_checkpoints(tmp_path / "killed"):
        assert process.is_alive(), log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    assert forked.exit_code(process) == -signal.SIGKILL
    run_here([*arguments, "--resume_from_checkpoint", "true"])
    run_here(words(data, tmp_path / "whole", *extra, model="v4_7", steps=5))
    assert same_bytes(tmp_path / "killed" / "model.safetensors", tmp_path / "whole" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v4_6", "v4_7"])
def test_accumulated_batched_and_packed_are_the_same_training(version: str, data: str, tmp_path: Path) -> None:
    four = {
        "batched": ["--per_device_train_batch_size", "4"],
        "accumulated": ["--gradient_accumulation_steps", "4"],
    }
    for name, extra in four.items():
        run_here(words(data, tmp_path / name, *extra, *_IN_FULL, model=version, steps=2))
    one, other = (tmp_path / name for name in four)
    assert losses(read_run(one)) == pytest.approx(losses(read_run(other)), abs=bound(fp32=5e-6, bf16=1e-2))
    weight = largest_difference(one / "model.safetensors", other / "model.safetensors")
    assert weight < bound(fp32=2e-4, bf16=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v4_6", "v4_7"])
def test_the_official_script_reaches_every_layer_and_reads_the_type_of_the_language_model(
    version: str, data: str, tmp_path: Path
) -> None:
    """Its expression names 2.6's modules, and means the release's preset."""
    official = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
    extra = ["--lora_target_modules", official, "--llm_type", "qwen3_5", "--lora_preset", "official", *_LORA]
    run_here(words(data, tmp_path, *extra, model=version, steps=1))
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in _matrices(tmp_path)}
    assert layers == {0, 1, 2, 3}


def _matrices(adapter: Path) -> list[str]:
    return [name for name in load_file(adapter / "adapter_model.safetensors") if ".lora_A." in name]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v4_6", "v4_7"])
@pytest.mark.parametrize(
    ("switches", "learns"),
    [
        ("--tune_llm false", {"vision tower", "resampler"}),
        ("--tune_vision false --tune_resampler false", {"language model", "token embeddings", "output head"}),
        ("--tune_llm false --tune_vision false", {"resampler"}),
    ],
)
def test_only_parts_that_are_switched_on_move(
    switches: str, learns: set[str], version: str, data: str, tmp_path: Path
) -> None:
    run = run_here(words(data, tmp_path, *switches.split(), *_IN_FULL, model=version, steps=2))
    assert {row["part"] for row in run["trained"] if row["how"] == "full"} == learns - (
        {"output head"} if version == "v4_6" else set()
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (FIXTURES / version, tmp_path))
    parts = {"model.vision_tower": "vision tower", "model.merger": "resampler", "lm_head": "output head"}
    parts |= {"model.language_model.embed_tokens": "token embeddings", "model.language_model": "language model"}
    moved = {
        next(part for place, part in parts.items() if name.startswith(f"{place}."))
        for name in before
        if not torch.equal(before[name].float(), after[name].float())
    }
    assert moved == learns - ({"output head"} if version == "v4_6" else set())
