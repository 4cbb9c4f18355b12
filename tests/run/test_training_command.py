"""The command line as users type it: the official scripts' flags, and faults that stop a run before it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv.training.run import main
from tests.run.forked import run_command
from tests.run.training import flags, losses, make_data, read_run
from tests.tiny import FIXTURES, conversation, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def test_official_command_line_runs_as_it_stands(data: str, tmp_path: Path) -> None:
    """All flags of the official ``finetune_lora.sh``; only float16 is left out, which no CPU can train in."""
    official = (
        "--remove_unused_columns false --label_names labels --prediction_loss_only false --bf16 false "
        "--bf16_full_eval false --fp16 false --fp16_full_eval true --do_train --do_eval --tune_vision true "
        "--tune_llm false --use_lora true --model_max_length 2048 --max_slice_nums 9 --max_steps 2 --eval_steps 1000 "
        "--logging_strategy steps --per_device_train_batch_size 1 --per_device_eval_batch_size 1 "
        "--gradient_accumulation_steps 1 --evaluation_strategy steps --save_strategy steps --save_steps 1000 "
        "--save_total_limit 10 --learning_rate 1e-6 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01 "
        "--lr_scheduler_type cosine --logging_steps 1 --gradient_checkpointing true --deepspeed ds_config_zero2.json "
        "--report_to tensorboard"
    )
    output = str(tmp_path / "output_lora")
    arguments = ["--model_name_or_path", str(FIXTURES / "v2_6"), "--llm_type", "qwen2"]
    arguments += ["--data_path", data, "--eval_data_path", data, "--output_dir", output, "--logging_dir", output]
    arguments += ["--lora_target_modules", r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"]
    words = [sys.executable, "-m", "minicpmv.training", *arguments, *official.split()]  # all of it as typed, not forked
    words += ["--data_cache", str(tmp_path / "kept")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "using the shipped preset 'zero2'" in done.stdout
    assert list(Path(output).glob("events.out.tfevents.*")), "TensorBoard files go where --logging_dir says"
    assert "eval loss" in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith("verifying ")] == [], "no library speaks"


def test_fault_in_the_data_stops_before_the_model_is_loaded(tmp_path: Path) -> None:
    record = {"id": "a7", "image": "gone.png", "conversations": conversation("<image>\nWhat?", "This.")}
    data = write_data(tmp_path / "train.json", [record])
    done = run_command(flags(data, tmp_path / "output"))
    assert done.returncode == 2
    assert "train.json:2 record 0 (id 'a7') image" in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "output").exists()


def test_too_long_record_stops_before_the_model_is_loaded(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path / "output", "--model_max_length", "20")) == 2
    assert "--model_max_length" in capsys.readouterr().err


def test_missing_tracker_is_named_before_data_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags("no such file", tmp_path / "output"), "--report_to", "codecarbon"]) == 2
    assert "-m pip install codecarbon" in capsys.readouterr().err


def test_fault_is_told_once_by_two_processes(data: str, tmp_path: Path) -> None:
    done = run_command(flags(data, tmp_path, "--llm_type", "llama3"), processes=2)
    assert done.returncode != 0
    assert done.stderr.count("error: --llm_type: found 'llama3'") == 1


@pytest.mark.parametrize(
    ("model", "wrong", "right"), [("v2", "llama3", "minicpm"), ("v2_5", "qwen2", "llama3"), ("v2_6", "minicpm", "qwen")]
)
def test_llm_type_of_another_version_is_refused(
    model: str, wrong: str, right: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path, "--llm_type", wrong, model=model)) == 2
    told = capsys.readouterr().err
    assert f"found {wrong!r}" in told
    assert f"set --llm_type {right}" in told


def test_missing_weights_are_named(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in (FIXTURES / "v2_6").glob("*.json"):
        (base / path.name).write_bytes(path.read_bytes())
    arguments = flags(data, tmp_path / "output")
    assert main([*arguments, "--model_name_or_path", str(base)]) == 2
    assert str(base) in capsys.readouterr().err


def test_adapter_goes_on_from_an_adapter(data: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    common = ["--use_lora", "--save_strategy", "no"]
    assert main(flags(data, first, *common, "--lora_r", "4", steps=3)) == 0
    assert main(flags(data, second, *common, "--lora_weight_path", str(first), steps=1)) == 0
    started, went_on = (losses(read_run(path))[0] for path in (first, second))
    assert went_on < started - 0.3
    assert json.loads((second / "adapter_config.json").read_text())["r"] == 4
