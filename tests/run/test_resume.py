"""A run that was stopped, however rudely, goes on as if it had not been."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minicpmv.files.atomic_files import STAGING
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.manifest import find_fault
from minicpmv.training.run import main, train
from tests.run import chaos, forked
from tests.run.training import flags, make_data, read_run, run_here, same_bytes

_ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("model", "extra", "weights"),
    [
        # Dropout: the random state must be restored, too.
        pytest.param("v2_6", ["--use_lora", "--lora_dropout", "0.3"], _ADAPTER, marks=pytest.mark.slow),
        ("v2_6", ["--use_lora", "--lora_dropout", "0.3", "--bf16", "true"], _ADAPTER),  # the default on a GPU
        ("v2", [], "checkpoint-6/model.safetensors"),  # keys are converted on the way to the file and back
    ],
)
def test_resumed_is_uninterrupted(model: str, extra: list[str], weights: str, data: str, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extra = [*extra, "--save_steps", "2", "--save_total_limit", "5", "--train_sampling_strategy", "random"]
    run_here(flags(data, whole, *extra, model=model, steps=6))
    shutil.copytree(whole / "checkpoint-4", stopped / "checkpoint-4")
    run_here(flags(data, stopped, *extra, "--resume_from_checkpoint", "true", model=model, steps=6))
    assert same_bytes(stopped / weights, whole / weights)


def test_damaged_checkpoint_is_passed_over(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = flags(data, tmp_path, "--save_steps", "2", "--use_lora", "--lora_r", "4")
    train(arguments)
    os.truncate(tmp_path / "checkpoint-4" / "optimizer.pt", 100)
    train([*arguments, "--resume_from_checkpoint", "true"])
    told = capsys.readouterr().out
    assert "checkpoint-4 is incomplete or damaged (optimizer.pt has 100 bytes instead of" in told
    assert f"resuming from {tmp_path}/checkpoint-2" in told
    assert find_fault(tmp_path / "checkpoint-4") is None, "it was written anew"


def test_new_run_does_not_mix_with_an_old_one(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = flags(data, tmp_path, "--save_steps", "1", "--use_lora", "--lora_r", "4", steps=2)
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "found checkpoint-2 of an earlier run" in capsys.readouterr().err
    assert main([*arguments, "--overwrite_output_dir", "--max_steps", "1"]) == 0
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]


def test_adapter_and_full_model_do_not_share_a_directory(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(flags(data, tmp_path, "--use_lora")) == 2
    assert f"found a full model in {str(tmp_path)!r}, expected a directory to save an" in capsys.readouterr().err


def test_altered_checkpoint_is_passed_over(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One bit of the optimizer's state: sizes are right, and torch would load it."""
    arguments = flags(data, tmp_path, "--save_steps", "1", "--use_lora", "--lora_r", "4", steps=2)
    train(arguments)
    path = tmp_path / "checkpoint-2" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    train([*arguments, "--resume_from_checkpoint", "true"])
    told = capsys.readouterr().out
    assert f"{path.parent} is incomplete or damaged (optimizer.pt was changed after writing" in told
    assert f"resuming from {tmp_path}/checkpoint-1" in told


def test_another_engine_is_refused_with_the_way_to_go_on(data: str, tmp_path: Path) -> None:
    output, log = tmp_path / "output", tmp_path / "log"
    arguments = flags(data, output, "--save_steps", "1", "--use_lora", "--lora_r", "4", steps=1)
    assert main(arguments) == 0
    resumed = [*arguments, "--resume_from_checkpoint", "true", "--deepspeed", "zero2"]
    assert forked.exit_code(forked.start(resumed, log=log)) == 2  # not here: DeepSpeed leaves traces in a process
    assert f"{output}/checkpoint-1: found it written with no DeepSpeed, expected DeepSpeed ZeRO-2" in log.read_text()
    assert f"--lora_weight_path {output}/checkpoint-1" in log.read_text()


def test_other_data_or_flags_are_refused_and_a_longer_run_is_not(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_data(tmp_path, num_records=5)
    arguments = flags(data, tmp_path / "output", "--use_lora", "--lora_r", "4", steps=1)
    assert main(arguments) == 0
    resumed = [*arguments, "--resume_from_checkpoint", "true"]
    assert main([*resumed, "--learning_rate", "1e-5", "--data_path", other]) == 2
    told = capsys.readouterr().err
    assert "checkpoint-1: found other settings" in told
    assert "--learning_rate: 0.001 then, 1e-05 now" in told
    assert "--data_path: the files have another content now" in told
    assert main([*resumed, "--max_steps", "2", "--dataloader_num_workers", "1"]) == 0
    assert "notice: --max_steps: 1 then, 2 now" in capsys.readouterr().out


def test_resumed_run_logs_evaluates_and_saves_as_often_as_it_is_asked_to(data: str, tmp_path: Path) -> None:
    """transformers has the intervals from the checkpoint, and says that the arguments do not match."""
    common = ["--use_lora", "--lora_r", "4", "--eval_data_path", data, "--save_total_limit", "9", "--measure", "0"]
    before = ["--logging_steps", "1", "--eval_steps", "2", "--save_steps", "2"]
    train(flags(data, tmp_path, *common, *before, steps=4))
    after = ["--logging_steps", "5", "--eval_steps", "3", "--save_steps", "4", "--resume_from_checkpoint", "true"]
    log = tmp_path / "told"
    assert forked.exit_code(forked.start(flags(data, tmp_path, *common, *after, steps=11), log=log)) == 0
    entries = read_run(tmp_path)["log"]
    told = log.read_text()
    assert "evaluation: every 3 steps" in told
    assert "do not match" not in told
    assert [entry["step"] for entry in entries if "eval_loss" in entry] == [2, 4, 6, 9, 11]
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2, 3, 4, 5, 10]
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in (2, 4, 8, 11)]


def test_resumed_run_compares_by_the_metric_it_is_asked_for(data: str, tmp_path: Path) -> None:
    """As if it had been the metric from the beginning; transformers would compare it with the best loss."""
    common = ["--use_lora", "--lora_r", "4", "--eval_data_path", data, "--save_total_limit", "9", "--measure", "0"]
    common += ["--eval_steps", "1", "--eval_metrics", "perplexity,cer", "--keep_best", "--early_stopping", "9"]
    common += ["--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    other = ["--metric_for_best_model", "cer", "--greater_is_better", "true"]  # the worst of what falls: the first
    train(flags(data, tmp_path / "loss", *common, steps=3))
    log = tmp_path / "told"
    resumed = flags(data, tmp_path / "loss", *common, *other, "--resume_from_checkpoint", "true", steps=4)
    assert forked.exit_code(forked.start(resumed, log=log)) == 0
    train(flags(data, tmp_path / "cer", *common, *other, steps=4))
    assert "did not compare by cer (--metric_for_best_model); the best by it of those that are still" in log.read_text()
    resumed_state, whole_state = (_state_of(tmp_path / name / "checkpoint-4") for name in ("loss", "cer"))
    assert resumed_state == whole_state
    assert f"best: step {whole_state['best_global_step']} of 4" in log.read_text()


def test_early_stopping_may_begin_when_a_run_is_resumed(data: str, tmp_path: Path) -> None:
    """It counts the evaluations of the earlier run, too."""
    common = ["--use_lora", "--lora_r", "4", "--eval_data_path", data, "--measure", "0", "--eval_steps", "1"]
    common += ["--save_steps", "1", "--save_total_limit", "9", "--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    worse = ["--metric_for_best_model", "loss", "--greater_is_better", "true", "--early_stopping", "4"]
    train(flags(data, tmp_path, *common, steps=3))
    log = run_here(flags(data, tmp_path, *common, *worse, "--resume_from_checkpoint", "true", steps=9))["log"]
    losses_of_steps = {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}
    worst = max(losses_of_steps, key=losses_of_steps.__getitem__)
    assert worst < 3, "it falls"
    assert list_checkpoints(tmp_path)[-1].name == f"checkpoint-{worst + 4}"


def test_run_of_another_length_has_the_rates_of_its_own_schedule(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the first step on; torch would give that one the rate of the earlier schedule."""
    common = ["--use_lora", "--lora_r", "4", "--save_steps", "2", "--warmup_steps", "0"]
    train(flags(data, tmp_path / "short", *common, steps=4))
    shutil.copytree(tmp_path / "short" / "checkpoint-2", tmp_path / "longer" / "checkpoint-2")
    resumed = run_here(flags(data, tmp_path / "longer", *common, "--resume_from_checkpoint", "true", steps=8))
    rates = {entry["step"]: entry["learning_rate"] for entry in resumed["log"] if "learning_rate" in entry}
    assert [rates[step] for step in (3, 4, 5, 8)] == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * (step - 1) / 8)) / 2 for step in (3, 4, 5, 8)]
    )
    capsys.readouterr()
    train(flags(data, tmp_path / "short", *common, "--resume_from_checkpoint", "true", steps=3))
    assert "notice: the checkpoint has taken 4 of 3 steps, so nothing is left to train" in capsys.readouterr().out


def _state_of(checkpoint: Path) -> dict[str, object]:
    """Return what a checkpoint has kept of the best evaluation."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    stopping = state["stateful_callbacks"]["EarlyStopping"]["attributes"]
    kept = {name: state[name] for name in ("best_metric", "best_global_step")}
    return {**kept, **stopping, "checkpoint": Path(state["best_model_checkpoint"]).name}


def _is_saving(output: Path) -> bool:
    staging = output / STAGING
    return staging.exists() and any(staging.iterdir())


@pytest.mark.parametrize(
    ("moment", "is_there"),
    [
        ("before the first checkpoint", lambda output: (output / "run.json").exists()),
        ("while saving", _is_saving),
    ],
)
def test_killed_run_goes_on_with_the_same_command(
    moment: str, is_there: Callable[[Path], bool], data: str, tmp_path: Path, uninterrupted: Path
) -> None:
    output = tmp_path / "output"
    arguments = chaos.arguments(data, output)
    process = forked.start(arguments, log=tmp_path / "log")
    deadline = time.monotonic() + 90
    while not is_there(output):
        assert process.is_alive(), f"the run ended before it could be killed {moment}"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    assert forked.exit_code(process) == -signal.SIGKILL
    assert all(find_fault(path, check_content=True) is None for path in list_checkpoints(output))
    train(arguments)
    assert same_bytes(output / _ADAPTER, uninterrupted / _ADAPTER)
    assert not (output / STAGING).exists()


@pytest.mark.long
def test_run_that_ends_in_every_way_at_random_moments_ends_identical(
    data: str, tmp_path: Path, uninterrupted: Path
) -> None:
    """`python -m tests.run.chaos` does the same more often."""
    output = tmp_path / "output"
    run = chaos.Chaos(chaos.arguments(data, output), output, tmp_path / "logs", seed=1)
    for end in run.ways:
        end()
    assert run.finish() == chaos.digest(uninterrupted)


@pytest.fixture(scope="module")
def uninterrupted(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    train(chaos.arguments(data, output))
    return output
