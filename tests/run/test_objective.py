"""An objective of one's own: a few lines on top of ``Objective``, and all the rest of a run is as ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from minicpmv.errors import CheckpointError, ConfigError, NotFiniteError, UsageError
from minicpmv.report.writing import compose
from minicpmv.training.flags.words.settings_file import with_settings_file
from minicpmv.training.objectives.objective import Batch, Objective, log_probs_of
from minicpmv.training.run import train
from tests.precision import bound
from tests.run.training import flags, largest_difference, losses, make_data, read_run

_MODEL = "adapter_model.safetensors"
_LORA = ["--use_lora", "true", "--lora_preset", "adapters_only", "--lora_r", "4", "--lora_dropout", "0"]


class Plain(Objective):
    """The supervised loss once more, from log-probabilities."""

    def loss(self, model: nn.Module, batch: Batch, total: Tensor) -> Tensor:
        """Return a scalar."""
        return -log_probs_of(model, batch).sum() / total[0]


class Focal(Plain):
    """Spends less on tokens that the model already knows, and counts its steps."""

    def __init__(self) -> None:
        self.steps = 0.0

    def loss(self, model: nn.Module, batch: Batch, total: Tensor) -> Tensor:
        """Return a scalar."""
        log_probs = log_probs_of(model, batch)
        return -((1 - log_probs.exp()) ** 2 * log_probs).sum() / total[0]

    def read(self, step: int) -> dict[str, float]:
        return {"counted": self.steps}

    def end_step(self) -> None:
        self.steps += 1

    def state(self) -> dict[str, float]:
        return {"steps": self.steps}

    def restore(self, state: Mapping[str, float]) -> None:
        self.steps = state["steps"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def run_own(objective: Objective | None, data: str, output: Path, *extra: str, **options: Any) -> dict[str, Any]:
    train(flags(data, output, *_LORA, *extra, **options), objective=objective)
    return read_run(output)


def test_files_of_a_run_name_its_own_objective_and_repeat_no_other(data: str, tmp_path: Path) -> None:
    name = f"{Focal.__module__}.Focal"
    assert run_own(Focal(), data, tmp_path / "own", steps=1)["own_objective"] == name
    assert "Its objective is a class of Python" in (tmp_path / "own" / "run.yaml").read_text()
    assert name in compose([str(tmp_path / "own")]).page
    with pytest.raises(UsageError, match="objective: found"):
        train(with_settings_file([str(tmp_path / "own" / "run.yaml"), "--output", str(tmp_path / "again")]))


@pytest.mark.long
def test_own_loss_that_is_the_supervised_one_trains_and_measures_alike(data: str, tmp_path: Path) -> None:
    """Measured in float32: 4.8e-7 on losses of about 7, and 2.4e-7 on weights."""
    measured = ["--eval_data_path", data, "--per_device_eval_batch_size", "3", "--per_device_train_batch_size", "2"]
    own, ours = (
        run_own(objective, data, tmp_path / name, *measured) for name, objective in (("own", Plain()), ("ours", None))
    )
    assert losses(own) == pytest.approx(losses(ours), abs=bound(fp32=5e-6, bf16=5e-2))
    assert largest_difference(tmp_path / "own" / _MODEL, tmp_path / "ours" / _MODEL) < bound(fp32=3e-5, bf16=2e-2)
    (found,), (expected,) = (
        [entry["eval_loss"] for entry in run["log"] if "eval_loss" in entry] for run in (own, ours)
    )
    assert found == pytest.approx(expected, abs=bound(fp32=5e-6, bf16=5e-2))


def test_own_loss_is_one_number_for_each_step_however_it_is_batched(data: str, tmp_path: Path) -> None:
    together = run_own(Focal(), data, tmp_path / "one", "--per_device_train_batch_size", "4", steps=2)
    apart = run_own(Focal(), data, tmp_path / "four", "--gradient_accumulation_steps", "4", steps=2)
    assert losses(together) == pytest.approx(losses(apart), abs=bound(fp32=5e-6, bf16=5e-2))


def test_own_state_goes_on_in_a_resumed_run_of_the_same_objective_alone(data: str, tmp_path: Path) -> None:
    run_own(Focal(), data, tmp_path, "--save_steps", "1", steps=2)
    resumed = run_own(Focal(), data, tmp_path, "--resume_from_checkpoint", "true", steps=3)
    assert [entry["counted"] for entry in resumed["log"] if "loss" in entry] == [1, 2, 3]
    with pytest.raises(CheckpointError, match=r"objective: \S+\.Focal then, \S+\.Plain now"):
        run_own(Plain(), data, tmp_path, "--resume_from_checkpoint", "true", steps=4)
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["StateOfObjective"]["attributes"] == {"kept": {"steps": 3}}


class Returns(Plain):
    """Makes something else of the loss."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        self.change = change

    def loss(self, model: nn.Module, batch: Batch, total: Tensor) -> Tensor:
        """Return anything."""
        return self.change(super().loss(model, batch, total))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda loss: loss.item(), "found a float"),
        (lambda loss: loss.repeat(3), r"found a tensor of shape \(3,\)"),
        (lambda loss: loss.detach(), "found a tensor without a gradient path"),
    ],
)
def test_own_loss_that_is_no_loss_names_its_class_and_what_it_must_return(
    change: Callable[[Tensor], Any], said: str, data: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"objective Returns.loss: {said}.*expected .* tensor of one number"):
        run_own(Returns(change), data, tmp_path, steps=1)


def test_own_loss_that_is_not_finite_is_a_suspect(data: str, tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"fix: see whether the loss of \S+\.Returns divides by 0"):
        run_own(Returns(lambda loss: loss * float("nan")), data, tmp_path, steps=1)


@pytest.mark.parametrize(
    ("objective", "said"),
    [("sft", "found 'sft'.*--objective takes the names sft, dpo"), (Focal, r".*\n  fix: objective=Focal\(\)")],
)
def test_what_is_no_objective_is_refused_before_the_flags(objective: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"objective: {said}"):
        train([], objective=objective)
