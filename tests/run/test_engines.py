"""Two processes train like one, whatever shards weights and optimizer, even if one sees no picture in a whole step."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minicpmv.training.checkpoints.manifest import read_manifest
from tests.run import engines
from tests.run.forked import run_command
from tests.run.shown import check_metrics, check_norms_of_parts, check_samples, check_throughput
from tests.run.training import flags, largest_difference, losses, read_run, run_here, same_bytes
from tests.tiny import FIXTURES

Train = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return engines.make_mixed_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains with an engine ("" for one process) in full or with LoRA, once for all tests."""

    @functools.cache
    def train(engine: str, kind: str) -> Path:
        output = tmp_path_factory.mktemp(f"{engine or 'alone'}-{kind}")
        if engine:
            engines.train_with(engine, kind, data, output)
        else:
            engines.train_alone(kind, data, output)
        return output

    return train


def test_first_process_sees_no_picture_in_the_second_step(data: str) -> None:
    has_picture = ["image" in record for record in json.loads(Path(data).read_text(encoding="utf-8"))]
    of_first, of_second = has_picture[::2], has_picture[1::2]
    assert of_first == [True, False, False, False], "two records in a step"
    assert all(of_second)


# Each engine once, and what saves differently with LoRA twice. `python -m tests.run.engines` trains all pairs.
@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        pytest.param("ddp", "full", marks=pytest.mark.slow),  # as in tests/run/test_shared_start.py
        pytest.param("zero1", "LoRA", marks=pytest.mark.slow),
        pytest.param("zero2", "full", marks=pytest.mark.slow),  # between one copy of all and shards of all
        pytest.param("zero2-offload", "LoRA", marks=pytest.mark.slow),
        ("zero3", "full"),
        pytest.param("zero3-offload", "LoRA", marks=pytest.mark.slow),
        ("fsdp2", "full"),
        pytest.param("fsdp2", "LoRA", marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(engine: str, kind: str, trained: Train) -> None:
    ours, theirs = trained(engine, kind), trained("", kind)
    found = engines.compare(kind, ours, theirs)
    assert found.loss < engines.LOSS
    assert found.weight < engines.WEIGHT
    check_norms_of_parts(ours, theirs)
    check_throughput(ours, theirs, processes=2)
    check_samples(ours, theirs, steps=[0, engines.STEPS])
    check_metrics(ours, theirs)


@pytest.mark.long
def test_fsdp_goes_on_from_a_checkpoint_as_if_uninterrupted(data: str, trained: Train, tmp_path: Path) -> None:
    whole, middle = trained("fsdp2", "full"), f"checkpoint-{engines.STEPS // 2}"
    shutil.copytree(whole / middle, tmp_path / middle)
    manifest = read_manifest(tmp_path / middle)
    assert manifest is not None
    assert manifest["engine"] == "FSDP2"
    assert "pytorch_model_fsdp.bin" not in manifest["files"], "the weights once more"
    engines.train_with("fsdp2", "full", data, tmp_path, "--resume_from_checkpoint", "true")
    assert same_bytes(tmp_path / "model.safetensors", whole / "model.safetensors")
    assert losses(read_run(tmp_path)) == losses(read_run(whole))


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("v2", "--save_dtype float32"),  # its tower is converted, and its resampler has a buffer that is saved
        pytest.param(
            "v2_6", "--use_lora --use_dora true --lora_dropout 0 --tune_output_head true", marks=pytest.mark.slow
        ),
    ],
)
def test_under_fsdp_one_process_reads_the_weights_of_all(model: str, kind: str, data: str, tmp_path: Path) -> None:
    extra = [*kind.split(), "--model_name_or_path", str(FIXTURES / model)]
    ours = flags(data, tmp_path / "ours", *extra, "--fsdp", "true", "--gradient_accumulation_steps", "2")
    done = run_command([tmp_path, *ours], module="tests.run.one_reader", processes=2)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["cpu", "meta"]
    alone = run_here(flags(data, tmp_path / "alone", *extra, "--per_device_train_batch_size", "4"))
    assert losses(read_run(tmp_path / "ours")) == pytest.approx(losses(alone), abs=engines.LOSS)
    name = engines.SAVED["LoRA" if "--use_lora" in kind else "full"]
    assert largest_difference(tmp_path / "ours" / name, tmp_path / "alone" / name) < engines.WEIGHT


@pytest.mark.slow
def test_fsdp_starts_from_what_each_process_takes_out_of_the_base(data: str, tmp_path: Path) -> None:
    """PiSSA decomposes the base's weights, so every process reads them."""
    extra = ["--use_lora", "--init_lora_weights", "pissa", "--lora_dropout", "0"]
    ours = flags(data, tmp_path / "ours", *extra, "--fsdp", "true", "--gradient_accumulation_steps", "2")
    done = run_command([tmp_path, *ours], module="tests.run.one_reader", processes=2)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["cpu", "cpu"]


@pytest.mark.slow
def test_fsdp_in_bfloat16_saves_adapters_in_float32_as_they_were_trained(data: str, tmp_path: Path) -> None:
    """Measuring leaves some parameters gathered, in bfloat16; and the originals beside the trained parts stand idle."""
    engines.train_with("fsdp2", "LoRA", data, tmp_path, "--bf16", "true", "--verify_saved", "true")
    saved = "adapter_model.safetensors"
    assert same_bytes(tmp_path / saved, tmp_path / f"checkpoint-{engines.STEPS}" / saved)
