"""The same batch gives the same training, however it is divided into micro-batches, processes and shards."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from pathlib import Path

import pytest

from tests.run.training import (
    flags,
    largest_difference,
    losses,
    make_data,
    read_run,
    read_samples,
    run_command,
    run_here,
)

# Measured: 7e-7 on losses around 5, and 4e-5 on weights after 4 steps of Adam at 1e-3, which turns rounding in the
# smallest gradients into steps. A loss averaged per micro-batch is off by 0.1 and more on these records.
_LOSS, _WEIGHT = 5e-6, 2e-4
_NORM = 1e-3
_WEIGHTS = "checkpoint-4/model.safetensors"

# Every engine has to keep the groups that these make.
_RATES = ["--vision_lr", "3e-4", "--embeddings_lr", "2e-3", "--weight_decay", "0.1", "--resampler_weight_decay", "0"]
_ASKED = ["--eval_samples", "2", "--eval_sample_tokens", "4", "--eval_data_path"]

# Tiny tensors are never partitioned otherwise, and nothing of ZeRO-3 would be tested.
_ZERO3 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def one_batch(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four records in one batch of one process, every parameter trained."""
    output = tmp_path_factory.mktemp("one_batch")
    run_here(flags(data, output, *_RATES, *_ASKED, data, "--per_device_train_batch_size", "4"))
    return output


def test_norms_of_parts_make_up_the_norm_of_the_gradient(one_batch: Path) -> None:
    check_norms_of_parts(one_batch, one_batch)


def test_run_json_says_what_was_run(data: str, one_batch: Path) -> None:
    run = read_run(one_batch)
    assert run["plan"]["records"] == 8
    assert run["plan"]["steps_per_epoch"] == 2
    assert run["plan"]["records_per_step"] == 4
    assert run["plan"]["tokens_per_step"] > 4
    assert run["data"] == [{"path": data, "sha256": hashlib.sha256(Path(data).read_bytes()).hexdigest()}]
    assert (run["seed"], run["arguments"]["packing"], run["training_arguments"]["max_steps"]) == (42, False, 4)
    assert run["versions"].keys() >= {"minicpmv-finetune", "python", "torch", "transformers", "peft"}
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    assert (run["commit"] or "").removesuffix("-dirty") == done.stdout.strip()


def test_four_accumulated_are_one_batch_of_four(data: str, one_batch: Path, tmp_path: Path) -> None:
    run = run_here(flags(data, tmp_path, *_RATES, "--gradient_accumulation_steps", "4"))
    assert losses(run) == pytest.approx(losses(read_run(one_batch)), abs=_LOSS)
    assert largest_difference(tmp_path / _WEIGHTS, one_batch / _WEIGHTS) < _WEIGHT


@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_two_processes_are_one(engine: str, data: str, one_batch: Path, tmp_path: Path) -> None:
    """Each process takes one record at a time, so in some micro-batches one of them has no picture."""
    extra = [*_RATES, *_ASKED, data, "--gradient_accumulation_steps", "2"]
    if engine == "zero3":
        config = tmp_path / "zero3.json"
        config.write_text(json.dumps(_ZERO3))
        extra += ["--deepspeed", str(config)]
    elif engine != "ddp":
        extra += ["--deepspeed", engine]
    output = tmp_path / "output"
    done = run_command(flags(data, output, *extra), processes=2)
    assert done.returncode == 0, done.stderr
    assert losses(read_run(output)) == pytest.approx(losses(read_run(one_batch)), abs=_LOSS)
    check_norms_of_parts(output, one_batch)
    check_throughput(output, one_batch, processes=2)
    check_samples(output, one_batch)
    weights = "model.safetensors" if engine == "zero3" else _WEIGHTS
    if engine == "zero3":  # the finished model was gathered from all shards, and rounded to the checkpoint's bfloat16
        assert largest_difference(output / weights, one_batch / weights) < 2e-3
    assert largest_difference(output / _WEIGHTS, one_batch / _WEIGHTS) < _WEIGHT


def check_norms_of_parts(output: Path, reference: Path) -> None:
    """Each logged step has the norm of every part; they make up the norm of the whole, and equal the reference's."""
    ours, theirs = ([entry for entry in read_run(run)["log"] if "loss" in entry] for run in (output, reference))
    for entry, expected in zip(ours, theirs, strict=True):
        norms = {name: entry[name] for name in entry if name.startswith("grad_norm/")}
        assert norms == pytest.approx({name: expected[name] for name in norms}, rel=_NORM)
        assert len(norms) == 5
        assert math.hypot(*norms.values()) == pytest.approx(entry["grad_norm"], rel=1e-5)


def check_throughput(output: Path, reference: Path, *, processes: int) -> None:
    """Of the same step, records and tokens are counted over all processes, operations for each."""
    ours, theirs = (read_run(run)["log"][0] for run in (output, reference))
    for name, divisor in (("samples_per_second", 1), ("tflops_per_second", processes)):
        ratio = theirs[name] / theirs["tokens_per_second"] / divisor
        # The resampler projects its queries once in a batch: four times here, once in the reference.
        assert ours[name] / ours["tokens_per_second"] == pytest.approx(ratio, rel=0.02)


def check_samples(output: Path, reference: Path) -> None:
    """One process writes, and the untrained model says the same however it is divided."""
    ours, theirs = read_samples(output), read_samples(reference)
    assert [(sample["step"], sample["record"]) for sample in ours] == [
        (sample["step"], sample["record"]) for sample in theirs
    ]
    assert [sample["step"] for sample in ours] == [0, 0, 4, 4], "the end of a run is measured, too"
    assert ours[:2] == theirs[:2]


@pytest.mark.parametrize("stage", [pytest.param("zero2", marks=pytest.mark.slow), "zero3"])
def test_sharded_lora_saves_full_tensors(stage: str, data: str, tmp_path: Path) -> None:
    lora = ["--use_lora", "--lora_r", "8", "--lora_dropout", "0"]
    alone, sharded = tmp_path / "alone", tmp_path / "sharded"
    run_here(flags(data, alone, *lora, "--per_device_train_batch_size", "4"))
    config = tmp_path / "zero3.json"
    config.write_text(json.dumps(_ZERO3))
    engine = str(config) if stage == "zero3" else stage
    split = ["--gradient_accumulation_steps", "2", "--deepspeed", engine]
    done = run_command(flags(data, sharded, *lora, *split), processes=2)
    assert done.returncode == 0, done.stderr
    assert losses(read_run(sharded)) == pytest.approx(losses(read_run(alone)), abs=_LOSS)
    adapter = "adapter_model.safetensors"
    assert largest_difference(sharded / adapter, alone / adapter) < _WEIGHT
