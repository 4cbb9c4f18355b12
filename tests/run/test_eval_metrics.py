"""Answers that are measured as a run goes: the values of ``minicpmv eval``, and the best checkpoint told by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from minicpmv.errors import UsageError
from minicpmv.inference import predicting
from minicpmv.training.monitoring.progress import format_log
from minicpmv.training.run import train
from tests.precision import bound
from tests.run.training import flags, make_data, read_run, run_here, same_bytes
from tests.tiny import conversation, write_data
from tests.unit.report.test_page import words_of

_EVALUATED = ["--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2", "--save_total_limit", "5"]
_LORA = ["--use_lora", "--lora_r", "4", "--lora_dropout", "0.3", "--eval_samples", "0"]
_VALUES = bound(fp32=1e-5, bf16=5e-2)
_MEASURED = ["--eval_metrics", "cer,cider,perplexity,exact_match", "--eval_max_new_tokens", "6"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=5)


@pytest.fixture(scope="module")
def measured(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("measured")
    run_here(flags(data, output, *_LORA, *_EVALUATED, *_MEASURED, "--eval_data_path", data))
    return output


def evaluations(output: Path) -> list[dict[str, Any]]:
    return [entry for entry in read_run(output)["log"] if "eval_loss" in entry]


def test_values_are_those_of_eval(measured: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = "cer,cider,perplexity,exact_match,loss"
    assert main(["eval", str(measured), data, "--max-new-tokens", "6", "--metrics", names, "--json"]) == 0
    found = {name: each["value"] for name, each in json.loads(capsys.readouterr().out)["metrics"].items()}
    last = evaluations(measured)[-1]
    assert last["step"] == 4
    # Batches differ, and so does rounding: measured 1e-7 of the loss. Values of answers are equal or far apart.
    # `eval` takes the adapter's float32: against bfloat16 the loss is off by 1e-3 and cer by one letter of 55.
    assert {name: last[f"eval_{name}"] for name in found} == pytest.approx(found, rel=_VALUES)
    assert {name: read_run(measured)["metrics"][f"eval_{name}"] for name in found} == pytest.approx(found, rel=_VALUES)


def test_measuring_does_not_change_training(measured: Path, data: str, tmp_path: Path) -> None:
    run_here(flags(data, tmp_path, *_LORA, *_EVALUATED, "--eval_data_path", data))
    assert same_bytes(tmp_path / "adapter_model.safetensors", measured / "adapter_model.safetensors")


def test_best_checkpoint_is_told_by_a_metric_that_is_better_when_lower(data: str, tmp_path: Path) -> None:
    """With so large a rate the model forgets how to speak: by cer the first checkpoint is best, and is gone back to."""
    best = ["--metric_for_best_model", "eval_cer", "--load_best_model_at_end", "true", "--learning_rate", "0.5"]
    run_here(flags(data, tmp_path, *_LORA, *_EVALUATED, *_MEASURED, "--eval_data_path", data, *best))
    first, second = (entry["eval_cer"] for entry in evaluations(tmp_path)[:2])
    assert first != second
    chosen = 2 if first < second else 4
    saved = "adapter_model.safetensors"
    assert same_bytes(tmp_path / saved, tmp_path / f"checkpoint-{chosen}" / saved)
    assert not same_bytes(tmp_path / saved, tmp_path / f"checkpoint-{6 - chosen}" / saved)
    assert read_run(tmp_path)["metrics"]["eval_cer"] == min(first, second)


def test_answers_come_in_batches_of_their_own(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records the loss is measured of at once: five of metrics, three before and after, two samples."""
    asked: list[int] = []
    draw = predicting.draw_answers

    def noting(loaded: Any, inputs: Any, **how: Any) -> list[str]:
        asked.append(len(inputs["input_ids"]))
        return draw(loaded, inputs, **how)

    monkeypatch.setattr(predicting, "draw_answers", noting)
    extra = ["--eval_metrics", "cer", "--measure", "3", "--per_device_eval_batch_size", "5", "--answer_batch_size", "2"]
    short = ["--eval_max_new_tokens", "2", "--eval_sample_tokens", "2"]
    run_here(flags(data, tmp_path, *extra, *short, "--eval_data_path", data, steps=1))
    before, metrics, sampled = [2, 1], [2, 2, 1], [2]
    assert asked == [*before, *sampled, *metrics, *sampled, *before]


def test_number_of_records_is_bounded_and_references_are_read(tmp_path: Path) -> None:
    talk = conversation("Why?", "So.")
    held_out = write_data(
        tmp_path / "held_out.json",
        [{"conversations": talk, "references": ["yes"] * 4}, {"conversations": talk, "references": ["no"] * 4}],
    )
    train_data = write_data(tmp_path / "train.json", [{"conversations": talk}])
    asked = ["--eval_metrics", "vqa_accuracy", "--eval_metrics_records", "1", "--eval_data_path", held_out]
    metrics = run_here(flags(train_data, tmp_path / "out", *asked, steps=1))["metrics"]
    assert metrics["eval_vqa_accuracy"] == 0
    with pytest.raises(UsageError, match=r"--eval_metrics vqa_accuracy: found no record that it can measure"):
        train(flags(train_data, tmp_path / "x", "--eval_metrics", "vqa_accuracy", "--eval_data_path", train_data))


def test_the_share_that_is_measured_is_said_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three answers the last has weight 0, so that the second is measured: the reference is its own."""
    talk: list[dict[str, Any]] = [*conversation("Why?", "So.", "And?", "Yes.", "Sure?", "No.")]
    talk[-1]["weight"] = 0
    held_out = write_data(tmp_path / "held_out.json", [{"conversations": talk}])
    measured = ["--eval_metrics", "cer", "--eval_max_new_tokens", "4", "--eval_data_path", held_out]
    run = run_here(flags(held_out, tmp_path / "out", *measured, "--measure", "1", "--report", "true", steps=1))
    share = "1 of 2 answers: the last one of each record"
    told = capsys.readouterr().out
    assert f"--eval_metrics: {share} (1 more have weight 0 and are only read)\n" in told
    assert f"\n  {share}\n" in told, "of the answers before and after"
    assert "expected 'So.' (the first of its record's 2 answers)\n" in told
    assert run["eval_metrics_answers"] == {"": {"asked": 1, "of": 2, "of_weight_0": 1}}
    (line,) = (tmp_path / "out" / "after.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reference"] == "Yes."
    page = words_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert page.count(share) == 4, "cer at evaluation, two metrics before and after, their table"
    assert "validation loss, 1 of 2" not in page
    assert "1 of 2 answers: the first one of each record" in page


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--eval_metrics", "anls", "--validation_split", "0"], "--eval_metrics: found no validation data"),
        (["--eval_metrics", "anl", "--eval_data_path", "x"], "fix: did you mean anls?"),
        (["--eval_metrics_records", "5"], "--eval_metrics_records: found without --eval_metrics"),
        (
            ["--answer_batch_size", "4", "--validation_split", "0"],
            "--answer_batch_size: found no record that is answered",
        ),
        (["--eval_max_new_tokens", "0"], "--eval_max_new_tokens: found 0, expected at least 1"),
        (
            ["--metric_for_best_model", "eval_anls", "--eval_data_path", "x", "--eval_metrics", "cer"],
            "--metric_for_best_model: found 'eval_anls', expected a metric that is measured: eval_loss, eval_cer\n"
            "  fix: add --eval_metrics cer,anls",
        ),
    ],
)
def test_flags_that_cannot_act_are_refused(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(flags("nowhere.json", tmp_path, *given))
    assert message in str(caught.value)


def test_values_stand_in_the_line_of_the_evaluation() -> None:
    logs = {"eval_loss": 0.5, "eval_anls": 0.25, "eval_runtime": 3.0, "eval_samples_per_second": 9.0, "epoch": 1.0}
    assert format_log(logs, step=4, max_steps=8) == "step 4/8  eval loss 0.5000  anls 0.2500"
