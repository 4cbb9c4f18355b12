"""Small data: a part is held out and measured in each epoch, the best checkpoint is kept, answers before and after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.cli.main import main as run_command
from minicpmv.errors import UsageError
from minicpmv.report.evaluations import measured_keys
from minicpmv.training.run import main, train
from tests.run.training import PLAIN, flags, make_data, read_run, read_samples, run_here, same_bytes
from tests.tiny import FIXTURES, conversation, save_picture, write_data
from tests.unit.report.test_page import curves_of, words_of

_UNASKED = ["--use_lora", "--lora_r", "4"]
_LORA = [*_UNASKED, "--eval_sample_tokens", "4"]
_FLOAT32 = ["--bf16", "false"]
_ADAPTER = "adapter_model.safetensors"


def make_many(folder: Path, number: int, *, name: str = "train.json") -> str:
    """Write so many records, two of each picture."""
    records: list[dict[str, Any]] = []
    for index in range(number):
        picture = f"{index // 2}.png"
        if not (folder / picture).exists():
            save_picture(folder / picture, 20, 20, seed=index // 2)
        texts = conversation(f"<image>\nQuestion {index}?", "word " * (1 + index % 3))
        records.append({"id": str(index), "image": picture, "conversations": texts})
    return write_data(folder / name, records)


def evaluations(output: Path, key: str = "eval_loss") -> list[tuple[int, float]]:
    return [(entry["step"], entry[key]) for entry in read_run(output)["log"] if key in entry]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_many(tmp_path_factory.mktemp("many"), 100)


# ---------------------------------------------------------------------------------------------------------- held out


def test_a_part_of_the_data_is_held_out_said_and_written_down(
    many: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_here(flags(many, tmp_path, *_LORA, "--save_steps", "1", steps=2))
    told = capsys.readouterr().out
    assert "notice: validation: 10 of 100 records (10.0%) are used for validation" in told
    assert "--validation_split 0 trains on all" in told
    assert (run["data_statistics"]["records"], run["data_statistics"]["validation_records"]) == (90, 10)
    assert run["plan"]["records"] == 90
    assert {key: run["validation_split"][key] for key in ("held_out", "of")} == {"held_out": 10, "of": 100}
    assert run["metrics"]["eval_loss"] > 0
    asked = {sample["images"][0] for sample in read_samples(tmp_path)}
    assert len(asked) == 1, "two questions about one picture, which were both held out"

    other = flags(many, tmp_path, *_LORA, "--resume_from_checkpoint", "true", "--validation_split", "0.2", steps=3)
    assert main(other) == 2
    assert "--validation_split: " in capsys.readouterr().err


def test_all_are_trained_on_where_the_user_says_so(many: str, tmp_path: Path) -> None:
    run = run_here(flags(many, tmp_path, *_UNASKED, "--validation_split", "0", steps=1))
    assert run["data_statistics"]["records"] == run["plan"]["records"] == 100
    assert run["validation_split"] is None
    assert "eval_loss" not in run["metrics"]


def test_small_data_are_trained_on_whole_and_it_is_said(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_here(flags(data, tmp_path, *_LORA, "--measure", "4", steps=1))
    told = capsys.readouterr().out
    assert "validation: none; all 8 records are trained on" in told
    assert "notice: --measure: found no record to measure on" in told
    assert run["data_statistics"]["validation_records"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--validation_split", "0.1", "--eval_data_path", "x"], "found both, expected one"),
        (["--validation_split", "0.1", "--check_first", "false"], "what is held out depends on all records"),
        (["--early_stopping", "-1"], "--early_stopping: found -1, expected at least 0"),
        (["--measure", "-1"], "--measure: found -1, expected at least 0"),
    ],
)
def test_what_contradicts_is_refused(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(flags("nowhere.json", tmp_path, *given))
    assert message in str(caught.value)


@pytest.mark.parametrize("given", [["--keep_best"], ["--early_stopping", "2"], ["--eval_metrics", "anls"]])
def test_what_needs_records_to_measure_is_refused_where_small_data_give_none(
    given: list[str], data: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"found no record to measure on \(--eval_data_path, --validation_split\)"):
        train(flags(data, tmp_path, *given))


# ------------------------------------------------------------------------------------------------------------ rhythm


def test_small_data_are_evaluated_in_every_epoch_and_logged_often(data: str, tmp_path: Path) -> None:
    """The record says both, and lines of the log come at every step of so short a run."""
    start = ["--model_name_or_path", str(FIXTURES / "v2_6"), "--data_path", data, "--output_dir", str(tmp_path)]
    quiet = "--report_to none --data_cache false --verify_saved false --report false --packing false --eval_samples 0"
    train([*start, *_UNASKED, *PLAIN.split(), *quiet.split(), "--num_train_epochs", "2", "--eval_data_path", data])
    run = read_run(tmp_path)
    assert [step for step, _ in evaluations(tmp_path)] == [8, 16]
    assert [entry["step"] for entry in run["log"] if "loss" in entry] == list(range(1, 17))
    assert [entry["step"] for entry in run["log"] if "epoch_loss" in entry] == [8, 16]


def test_the_loss_of_an_epoch_is_the_mean_of_its_tokens(data: str, tmp_path: Path) -> None:
    """Records come in order and one by one, so that each step's loss is of a known number of tokens."""
    run = run_here(flags(data, tmp_path / "whole", *_LORA, "--save_steps", "3", steps=12))
    losses = np.array([entry["loss"] for entry in run["log"] if "loss" in entry])
    trained = np.array([_trained_tokens(index) for index in range(8)] * 2)[:12]
    means = [entry["epoch_loss"] for entry in run["log"] if "epoch_loss" in entry]
    expected = [np.average(losses[start : start + 8], weights=trained[start : start + 8]) for start in (0, 8)]
    assert means == pytest.approx(expected, rel=1e-5)
    assert means[0] != pytest.approx(losses[:8].mean(), rel=1e-3)
    assert run["metrics"]["last_epoch_loss"] == means[1]

    shutil.copytree(tmp_path / "whole/checkpoint-9", tmp_path / "resumed/checkpoint-9")
    again = run_here(flags(data, tmp_path / "resumed", *_LORA, "--resume_from_checkpoint", "true", steps=12))
    assert again["metrics"]["last_epoch_loss"] == pytest.approx(means[1], rel=1e-6)


def _trained_tokens(index: int) -> int:
    """Count the words of an answer of ``make_data``, and the token that ends it."""
    from minicpmv.processing.processor import MiniCPMVProcessor

    tokenizer = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6").tokenizer
    return len(tokenizer.encode("word " * (1 + 3 * (index % 4)))) + 1


# -------------------------------------------------------------------------------------------------------- the best


_STOPPING = ["--early_stopping", "2", "--eval_steps", "2", "--learning_rate", "1e-12", "--save_total_limit", "9"]


def test_training_ends_when_nothing_improves_and_the_best_is_saved(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no learning to speak of the first evaluation stays the best; resumed is uninterrupted here, too."""
    whole, first = tmp_path / "whole", tmp_path / "first"
    run_here(flags(data, whole, *_LORA, *_STOPPING, "--eval_data_path", data, steps=20))
    told = capsys.readouterr().out
    assert "evaluation: every 2 steps, and the checkpoint with the best eval_loss is kept" in told
    assert "early stopping: ended after step 6 of 20" in told
    assert "best: step 2 of 6, eval_loss " in told
    assert [step for step, _ in evaluations(whole)] == [2, 4, 6]
    assert same_bytes(whole / _ADAPTER, whole / "checkpoint-2" / _ADAPTER)
    assert read_run(whole)["metrics"]["eval_loss"] == evaluations(whole)[0][1]

    for step in (2, 4):
        shutil.copytree(whole / f"checkpoint-{step}", first / f"checkpoint-{step}")
    arguments = flags(data, first, *_LORA, *_STOPPING, "--eval_data_path", data, steps=20)
    run_here([*arguments, "--resume_from_checkpoint", "true"])
    assert "early stopping: ended after step 6 of 20" in capsys.readouterr().out
    assert evaluations(first) == evaluations(whole)

    assert main([*arguments, "--resume_from_checkpoint", "true"]) == 0
    assert "early stopping: ended after step 6 of 20" in capsys.readouterr().out, "what has ended goes no further"

    assert main([*arguments, "--resume_from_checkpoint", "true", "--early_stopping", "3"]) == 0
    assert "early stopping: ended after step 8 of 20" in capsys.readouterr().out, "unless it is given more patience"


def test_saving_follows_evaluation_and_what_it_overrules_is_said(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--keep_best", "--eval_steps", "2", "--save_steps", "500", "--eval_data_path", data]
    run_here(flags(data, tmp_path, *_LORA, *extra))
    told = capsys.readouterr().out
    assert "notice: --keep_best: a checkpoint is saved at each evaluation, which overrules --save_steps" in told
    best = min(evaluations(tmp_path), key=lambda each: each[1])[0]
    assert same_bytes(tmp_path / _ADAPTER, tmp_path / f"checkpoint-{best}" / _ADAPTER)


@pytest.mark.parametrize("name", ["--eval_strategy", "--save_strategy"])
def test_the_best_needs_evaluations_and_checkpoints(name: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--keep_best true {name} no: found both, expected one"):
        train(flags(data, tmp_path, "--keep_best", "--eval_data_path", data, name, "no"))


# ------------------------------------------------------------------------------------------------------ several sets


def test_validation_that_is_trained_on_is_told_whatever_its_name(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(data).with_name("copy.json")
    shutil.copyfile(data, copy)
    other = make_many(tmp_path, 4, name="other.json")
    sets = ["--eval_data_path", f"copy={copy}", f"other={other}"]
    train(flags(data, tmp_path / "out", *sets, "--dry_run", "true"))
    told = [line for line in capsys.readouterr().out.splitlines() if "which is trained on" in line]
    same = f"{str(copy)!r} holds the same as {data!r}, which is trained on: its numbers show what was memorised"
    assert told == [f"notice: --eval_data_path: {same}"]


@pytest.fixture(scope="module")
def several(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    charts = make_many(folder, 4, name="charts.json")
    extra = ["--eval_data_path", charts, f"own={data}", "--eval_steps", "2", "--eval_metrics", "cer", "--keep_best"]
    extra += ["--eval_max_new_tokens", "4", "--metric_for_best_model", "eval_own_cer", "--measure", "3"]
    run_here(flags(data, folder / "out", *_LORA, *extra, "--report", "true"))
    return folder / "out"


def test_each_set_has_numbers_samples_and_a_curve_of_its_own(several: Path) -> None:
    run, page = read_run(several), (several / "report.html").read_text(encoding="utf-8")
    keys = {each.key for each in measured_keys(run["log"])}
    assert keys == {"eval_charts_loss", "eval_own_loss", "eval_charts_cer", "eval_own_cer"}
    assert keys <= run["metrics"].keys()
    assert [step for step, _ in evaluations(several, "eval_own_cer")] == [2, 4]
    charts = {chart["name"]: [series["name"] for series in chart["series"]] for chart in curves_of(page)["charts"]}
    assert charts["loss"] == ["training", "charts", "own"]
    assert charts["eval_cer"] == ["charts", "own"]
    assert "validation loss of charts" in words_of(page)
    assert [source.get("set") for source in run["eval_data"]] == ["charts", "own"]
    assert run["data_statistics"]["validation_records"] == 12
    assert len({sample["record"] for sample in read_samples(several)}) == 4, "two of each set"


def test_values_of_a_set_are_those_that_it_has_alone(several: Path, data: str, tmp_path: Path) -> None:
    extra = ["--eval_data_path", data, "--eval_steps", "2", "--eval_metrics", "cer", "--eval_max_new_tokens", "4"]
    run_here(flags(data, tmp_path, *_LORA, *extra))
    for metric in ("loss", "cer"):
        assert evaluations(tmp_path, f"eval_{metric}") == evaluations(several, f"eval_own_{metric}")


def test_the_best_is_told_by_a_set_that_is_there(data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=": eval_a_loss, eval_b_loss"):
        train(
            flags(data, tmp_path, "--eval_data_path", f"a={data}", f"b={data}", "--metric_for_best_model", "eval_loss")
        )


# -------------------------------------------------------------------------------------------------- before and after


def test_answers_before_and_after_are_those_of_eval(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In float32: under autocast a run rounds otherwise than weights that are bfloat16 themselves."""
    output = tmp_path / "out"
    asking = ("--measure", "3", "--report", "true")
    run_here(flags(data, output, *_LORA, *_FLOAT32, "--eval_data_path", data, *asking, steps=8))
    told = capsys.readouterr().out
    assert "before and after training, 3 of 8 validation records:\n  exact match 0.0% -> " in told
    asked = [0, 4, 7]  # spread evenly
    for model, name in ((str(FIXTURES / "v2_6"), "before.jsonl"), (str(output), "after.jsonl")):
        assert run_command(["eval", model, data, "--output", str(tmp_path / name), "--max-new-tokens", "64"]) == 0
        theirs, ours = _lines(tmp_path / name), _lines(output / name)
        assert [line["id"] for line in ours] == [str(index) for index in asked]
        assert [line["answer"] for line in ours] == [theirs[index]["answer"] for index in asked]
        assert [line["scores"]["exact_match"] for line in ours] == [
            theirs[index]["scores"]["exact_match"] for index in asked
        ]
    assert "Answers before and after" in words_of((output / "report.html").read_text(encoding="utf-8"))

    run_here(flags(data, tmp_path / "unasked", *_LORA, *_FLOAT32, "--eval_data_path", data, steps=8))
    assert same_bytes(tmp_path / "unasked" / _ADAPTER, output / _ADAPTER), "asking changes nothing"


def _lines(path: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -------------------------------------------------------------------------------------------------------- LoRA alone


def test_lora_alone_trains_adapters_and_the_run_says_which_kind_it_is(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run_here(flags(data, tmp_path / "alone", *_LORA, "--lora_preset", "adapters_only", steps=1))
    told = capsys.readouterr().out
    shares = {row["part"]: row["how"] for row in alone["trained"]}
    assert {part for part, how in shares.items() if how != "frozen"} == {"language model"}
    assert "LoRA alone: " in told
    run_here(flags(data, tmp_path / "official", *_LORA, steps=1))
    official = capsys.readouterr().out
    assert "LoRA as in the official recipe, and vision tower, resampler, token embeddings in full: " in official
    other = told.partition("token embeddings in full: ")[2].partition(")")[0]
    assert f"in full: {other} of all parameters learn" in official, "each names the other's share"

    run_here(flags(data, tmp_path / "none", *_LORA, "--lora_modules_to_save", "none", steps=1))
    assert same_bytes(tmp_path / "alone" / _ADAPTER, tmp_path / "none" / _ADAPTER)
