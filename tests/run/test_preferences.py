"""Runs with ``--objective dpo``: batches and processes add up, resuming changes nothing, the reference is right."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.data.samples.answer_scores import AnswerStore
from minicpmv.errors import NotFiniteError, UsageError
from minicpmv.training.run import train
from tests.precision import bound
from tests.run import engines
from tests.run.forked import run_command
from tests.run.training import flags, largest_difference, losses, make_data, read_run, run_here, same_bytes
from tests.tiny import FIXTURES, conversation, save_picture, write_data

# Measured in float32, at most: 9.5e-7 on losses from 7.3 to 0.02, 1.3e-7 on weights of adapters, and 1.1e-4 on weights
# trained in full under ZeRO-3. The bounds of bfloat16 are chosen.
LOSS, WEIGHT = bound(fp32=5e-6, bf16=5e-2), bound(fp32=3e-4, bf16=2e-2)
LORA = ["--use_lora", "true", "--lora_preset", "adapters_only", "--lora_r", "4"]
FULL = ["--save_dtype", "float32"]
NAMES = (
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "rewards/fallen"),
    *("logps/chosen", "logps/rejected", "lengths/chosen", "lengths/rejected", "nll_loss"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(folder: Path) -> str:
    """Eight pairs of very different lengths, two of them without a picture."""
    records: list[dict[str, Any]] = []
    for index in range(8):
        record: dict[str, Any] = {"id": str(index), "conversations": conversation("Say it.", "good " * (1 + index % 4))}
        if index not in (2, 5):
            save_picture(folder / f"{index}.png", 50 + 20 * index, 56, seed=index)
            record["image"] = f"{index}.png"
        records.append({**record, "rejected": "bad thing " * (1 + index % 3)})
    return write_data(folder / "pairs.json", records)


def dpo(data: str, output: Path, *extra: str, kind: Sequence[str] = LORA, **options: Any) -> list[str]:
    cache = () if "--reference_cache" in extra or "--precompute_ref_log_probs" in extra else (
        "--reference_cache", str(Path(data).parent / "references"),
    )  # fmt: skip
    return flags(data, output, "--objective", "dpo", "--validation_split", "0", *kind, *cache, *extra, **options)


def saved(output: Path) -> Path:
    (path,) = (output / name for name in engines.SAVED.values() if (output / name).is_file())
    return path


def entries(output: Path) -> list[dict[str, Any]]:
    return [entry for entry in read_run(output)["log"] if "loss" in entry]


def assert_same_training(first: Path, second: Path) -> None:
    pairs = list(zip(losses(read_run(first)), losses(read_run(second)), strict=True))
    assert max(abs(one - other) for one, other in pairs) < LOSS
    assert largest_difference(saved(first), saved(second)) < WEIGHT
    for ours, theirs in zip(entries(first), entries(second), strict=True):
        for name in NAMES:
            assert ours[name] == pytest.approx(theirs[name], abs=bound(fp32=1e-3, bf16=1), rel=1e-3), name


# ---------------------------------------------------------------------------------------------------- the same numbers


MIXED = ["--preference_loss", "sigmoid=0.8,bco_pair_delta=0.2,nll=1", "--segment_weight", "1.5"]


@pytest.fixture(scope="module")
def batched(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("batched")
    run_here(dpo(data, output, "--per_device_train_batch_size", "4", "--save_steps", "2", *MIXED))
    return output


@pytest.mark.long
def test_four_micro_batches_are_one_batch_of_four(data: str, batched: Path, tmp_path: Path) -> None:
    run_here(dpo(data, tmp_path / "out", "--gradient_accumulation_steps", "4", "--save_steps", "2", *MIXED))
    assert_same_training(tmp_path / "out", batched)


def test_two_processes_are_one(data: str, batched: Path, tmp_path: Path) -> None:
    done = run_command(
        dpo(data, tmp_path / "out", "--per_device_train_batch_size", "2", "--save_steps", "2", *MIXED), processes=2
    )
    assert done.returncode == 0, done.stderr
    assert_same_training(tmp_path / "out", batched)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("zero2", marks=pytest.mark.slow),
        pytest.param("zero3", marks=pytest.mark.slow),
        pytest.param("fsdp2", marks=pytest.mark.slow),
    ],
)
def test_an_engine_that_shards_trains_alike(data: str, tmp_path: Path, engine: str) -> None:
    """In full, where the reference is scored by the engine itself before the first step."""
    run_here(dpo(data, tmp_path / "one", "--per_device_train_batch_size", "4", kind=FULL, steps=3))
    cache = ["--reference_cache", str(tmp_path / "cache")]
    arguments = ["--per_device_train_batch_size", "2", *engines.switch(engine), *cache]
    done = run_command(dpo(data, tmp_path / "two", *arguments, kind=FULL, steps=3), processes=2)
    assert done.returncode == 0, done.stderr
    assert_same_training(tmp_path / "two", tmp_path / "one")


def test_a_resumed_run_is_the_uninterrupted_one(data: str, batched: Path, tmp_path: Path) -> None:
    """The reference of the second half is what the first half has stored, and the mean reward goes on."""
    shutil.copytree(batched / "checkpoint-2", tmp_path / "checkpoint-2")
    arguments = ["--per_device_train_batch_size", "4", "--save_steps", "2", *MIXED, "--resume_from_checkpoint", "true"]
    run_here(dpo(data, tmp_path, *arguments))
    assert same_bytes(saved(tmp_path), saved(batched))


def test_packed_rows_train_alike(data: str, tmp_path: Path) -> None:
    for name, extra in (("rows", ["--packing", "true"]), ("batches", ["--per_device_train_batch_size", "8"])):
        run_here(dpo(data, tmp_path / name, *extra, steps=2))
    assert_same_training(tmp_path / "rows", tmp_path / "batches")


# ------------------------------------------------------------------------------------------------------- the reference


def test_stored_values_are_those_of_the_model_without_its_adapter(data: str, tmp_path: Path) -> None:
    for name, extra in (("stored", []), ("asked", ["--precompute_ref_log_probs", "false"])):
        run_here(dpo(data, tmp_path / name, "--per_device_train_batch_size", "4", *extra))
    assert_same_training(tmp_path / "stored", tmp_path / "asked")
    assert entries(tmp_path / "stored")[0]["rewards/margins"] == pytest.approx(0, abs=bound(fp32=1e-5, bf16=0.1))
    assert losses(read_run(tmp_path / "stored"))[0] == pytest.approx(0.6931471806, abs=bound(fp32=1e-6, bf16=0.05))


def scored(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    train(arguments)
    (line,) = re.findall(r"^reference: .*", capsys.readouterr().out, re.MULTILINE)
    return line


@pytest.mark.long
def test_another_adapter_finds_the_values_and_whatever_changes_does_not(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight, the slices, the precision, a word of the template, one answer."""
    model = tmp_path / "model"
    shutil.copytree(FIXTURES / "v2_6", model)
    cache = ["--reference_cache", str(tmp_path / "cache"), "--model_name_or_path", str(model)]

    def start(*extra: str, kind: Sequence[str] = LORA, data: str = data) -> str:
        output = ["--output_dir", str(tmp_path / "out"), "--overwrite_output_dir", "true"]
        precision = () if "--bf16" in extra else ("--bf16", "false")
        return scored(capsys, dpo(data, tmp_path / "out", *precision, *cache, *output, *extra, kind=kind, steps=1))

    assert "8 records scored" in start()
    assert "all 8 records were scored before" in start("--lora_r", "8", "--seed", "3", "--beta", "0.5")
    assert "all 8 records were scored before" in start("--packing", "true")
    assert "records scored" in start("--max_slice_nums", "2")
    assert "8 records scored" in start("--bf16", "true")
    records = json.loads(Path(data).read_text())
    records[3]["rejected"] = "bad."
    other = write_data(Path(data).parent / "other.json", records)
    assert "1 record scored" in start(data=other)
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("input_layernorm.weight"))
    weights[name] = weights[name] * 1.01
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "8 records scored" in start()


@pytest.mark.parametrize("noise", [[], ["--neftune_noise_alpha", "50"]])
def test_values_of_another_model_stop_the_run(
    data: str, tmp_path: Path, noise: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise, too, which is left out where it hides by how much they differ."""
    find = AnswerStore.find

    def other(self: AnswerStore, key: bytes, number: int) -> Any:
        found = find(self, key, number)
        return None if found is None else found - 0.5

    monkeypatch.setattr(AnswerStore, "find", other)
    with pytest.raises(NotFiniteError, match=r"differ from the reference's by 0\.5 nats a token before anything was"):
        train(dpo(data, tmp_path / "out", *noise, steps=1))


@pytest.mark.slow
def test_an_adapter_with_dropout_is_compared_without_it(data: str, tmp_path: Path) -> None:
    """The reference is scored without chance; the first step would be refused if the model had any."""
    learnt = ["--validation_split", "0", "--lora_dropout", "0.5", "--learning_rate", "0.1"]
    run_here(flags(make_data(tmp_path, num_records=2), tmp_path / "first", *LORA, *learnt, steps=2))
    goes_on = ["--lora_weight_path", str(tmp_path / "first"), "--use_lora", "true"]
    run_here(dpo(data, tmp_path / "second", *goes_on, kind=(), steps=1))
    (entry,) = entries(tmp_path / "second")
    assert entry["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert json.loads((tmp_path / "second" / "adapter_config.json").read_text())["lora_dropout"] == 0
    run_here(dpo(data, tmp_path / "third", *goes_on, "--lora_dropout", "0.5", kind=(), steps=1))
    (entry,) = entries(tmp_path / "third")
    assert abs(entry["rewards/margins"]) > 1e-3, "dropout that is asked for acts, and is no fault of the reference"


def test_full_training_goes_on_only_with_what_was_stored(data: str, tmp_path: Path) -> None:
    cache = ["--reference_cache", str(tmp_path / "cache"), "--save_steps", "1"]
    run_here(dpo(data, tmp_path / "out", *cache, kind=FULL, steps=1))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UsageError, match="found values of 0 of 8 records"):
        train(dpo(data, tmp_path / "out", *cache, "--resume_from_checkpoint", "true", kind=FULL, steps=2))


@pytest.mark.slow
def test_a_run_that_was_over_is_measured_when_it_is_resumed(data: str, tmp_path: Path) -> None:
    """It takes no step, but asks for the reference's values of the validation set."""
    arguments = ["--eval_data_path", data, "--eval_strategy", "no", "--save_steps", "1"]
    first = run_here(dpo(data, tmp_path / "out", *arguments, steps=1))
    again = run_here(dpo(data, tmp_path / "out", *arguments, "--resume_from_checkpoint", "true", steps=1))
    assert first["metrics"]["eval_loss"] == pytest.approx(
        again["metrics"]["eval_loss"], abs=bound(fp32=1e-6, bf16=1e-2)
    )


# ------------------------------------------------------------------------------------------------------------- a run


def test_run_prefers_better_answers_and_is_verified(data: str, tmp_path: Path, capsys: Any) -> None:
    """Evaluated, logged by TRL's names, saved, and loaded again."""
    evaluated = ["--eval_data_path", data, "--eval_strategy", "steps", "--eval_steps", "6", "--verify_saved", "true"]
    output = tmp_path / "out"
    run_here(dpo(data, output, "--per_device_train_batch_size", "8", *evaluated, steps=6))
    first, *_, last = entries(output)
    assert all(name in last for name in NAMES)
    assert last["loss"] < 0.5 < first["loss"]
    (measured,) = (entry for entry in read_run(output)["log"] if "eval_loss" in entry)
    assert measured["eval_rewards/accuracies"] == 1
    assert measured["eval_rewards/margins"] == pytest.approx(
        measured["eval_rewards/chosen"] - measured["eval_rewards/rejected"]
    )
    assert json.loads((output / "verification.json").read_text())["verdict"] == "verified"
    said = capsys.readouterr().out
    assert "margin" in said
    assert "have both become" not in said


@pytest.mark.long
def test_validation_does_not_depend_on_its_batches(data: str, tmp_path: Path) -> None:
    found = []
    for size in ("1", "8"):
        evaluated = ["--eval_data_path", data, "--eval_on_start", "true", "--per_device_eval_batch_size", size]
        output = tmp_path / size
        run_here(dpo(data, output, *evaluated, steps=1))
        found.append(next(entry for entry in read_run(output)["log"] if "eval_loss" in entry))
    for name in ("loss", *NAMES):
        assert found[0][f"eval_{name}"] == pytest.approx(
            found[1][f"eval_{name}"], rel=1e-4, abs=bound(fp32=1e-5, bf16=0.5)
        )


def test_answers_that_are_judged_one_by_one(data: str, tmp_path: Path) -> None:
    records = json.loads(Path(data).read_text())
    for number, record in enumerate(records):
        del record["rejected"]
        record["label"] = number % 2 == 0
    judged = write_data(Path(data).parent / "judged.json", records)
    output = tmp_path / "out"
    run_here(dpo(judged, output, "--preference_loss", "apo_zero_unpaired", "--per_device_train_batch_size", "8"))
    first, *_, last = entries(output)
    assert first["loss"] == pytest.approx(0.5, abs=bound(fp32=1e-6, bf16=0.05))
    assert last["loss"] < first["loss"]
    assert last["rewards/chosen"] > last["rewards/rejected"]


def test_losses_without_a_reference_score_nothing(data: str, tmp_path: Path, capsys: Any) -> None:
    cache = tmp_path / "cache"
    arguments = dpo(data, tmp_path / "out", "--preference_loss", "simpo", steps=1)
    place = arguments.index("--reference_cache")
    run_here([*arguments[:place], *arguments[place + 2 :]])
    assert "reference:" not in capsys.readouterr().out
    assert not cache.exists()


def test_both_answers_falling_is_said(data: str, tmp_path: Path, capsys: Any) -> None:
    """As apo_down makes them, on purpose."""
    run_here(dpo(data, tmp_path, "--preference_loss", "apo_down", "--per_device_train_batch_size", "8", steps=6))
    assert "have both become less likely than under the reference" in capsys.readouterr().out


def test_dry_run_scores_nothing(data: str, tmp_path: Path, capsys: Any) -> None:
    arguments = dpo(data, tmp_path / "out", "--dry_run", "true", "--reference_cache", str(tmp_path / "cache"))
    train(arguments)
    assert "reference:" not in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_a_frozen_tower_is_cached_as_ever(data: str, tmp_path: Path) -> None:
    for name, extra in (("plain", []), ("cached", ["--vision_cache", str(tmp_path / "vision")])):
        run_here(dpo(data, tmp_path / name, "--per_device_train_batch_size", "4", *extra))
    assert_same_training(tmp_path / "cached", tmp_path / "plain")


@pytest.mark.parametrize("model", ["v4_7", *(pytest.param(model, marks=pytest.mark.slow) for model in ("v2", "v4_6"))])
def test_other_releases(data: str, tmp_path: Path, model: str) -> None:
    run_here(dpo(data, tmp_path / "out", "--per_device_train_batch_size", "8", model=model, steps=3))
    first, *_, last = losses(read_run(tmp_path / "out"))
    assert first == pytest.approx(0.6931, abs=bound(fp32=1e-4, bf16=0.05))
    assert last < first
    assert torch.isfinite(torch.tensor(last))
