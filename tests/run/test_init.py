"""``minicpmv init`` writes settings that ``minicpmv train`` takes, for each task and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from minicpmv.cli.main import main
from minicpmv.recipes.tasks import TASKS
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.words.settings_file import with_settings_file
from minicpmv.training.run import train
from tests.released_sizes import RELEASED
from tests.tiny import FIXTURES, conversation, save_picture, write_data

_ANSWERS = {"fields": '{{"total": {}}}', "grounding": "<box>{} 20 300 400</box>", "gui": "<box>{} 20 300 400</box>"}


def make_task(task: str, folder: Path) -> str:
    """Write eight records of a task."""
    records: list[dict[str, Any]] = []
    for number in range(1, 9):
        save_picture(folder / str(number) / "0.png", 90, 50, seed=number)
        answer = _ANSWERS.get(task, "word {}").format(number)
        shown = {"video": str(number)} if task == "film" else {"image": f"{number}/0.png"}
        mark = "<video>" if task == "film" else "<image>"
        record = {"id": str(number), **shown, "conversations": conversation(f"{mark}\nWhat {number}?", answer)}
        records.append(record | ({"rejected": "wrong"} if task == "preference" else {}))
    return write_data(folder / "train.json", records)


@pytest.mark.parametrize("task", TASKS)
def test_recipe_is_a_run_whose_settings_fit_together(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", task, str(FIXTURES / "v2_6"), "--card", "cpu"]) == 0
    parse_arguments(with_settings_file(["run.yaml"]))
    settings = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8"))
    assert ("eval_metrics" in settings) == (task != "preference")


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=() if task in ("film", "preference") else pytest.mark.slow) for task in TASKS],
)
def test_recipe_trains_as_it_is_written(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_task(task, tmp_path)
    assert main(["init", task, str(FIXTURES / "v2_6"), "--card", "cpu"]) == 0, capsys.readouterr().err
    assert "minicpmv train run.yaml --dry_run true" in capsys.readouterr().out
    quick = ["--dry_run", "true", "--data_cache", "false", "--report_to", "none", "--num_train_epochs", "3"]
    train(with_settings_file(["run.yaml", *quick]))
    assert "Dry run: all checks passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("film", "a film"),
        ("grounding", "a box"),
        ("gui", "an answer with a place to click"),
        ("fields", "an answer wi"),
    ],
)
def test_data_without_what_the_task_is_about_get_a_notice(
    task: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_task("vqa", tmp_path)
    assert main(["init", task, str(FIXTURES / "v2_6"), "--card", "cpu"]) == 0
    assert f"notice: train.json: found no record with {what}" in capsys.readouterr().out
    make_task(task, tmp_path)
    assert main(["init", task, str(FIXTURES / "v2_6"), "--card", "cpu", "--output", "other.yaml"]) == 0
    assert "found no record" not in capsys.readouterr().out


def test_existing_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    assert main(["init", "vqa", str(FIXTURES / "v2_6"), "--output", str(tmp_path / "run.yaml")]) == 2
    assert "expected a new one" in capsys.readouterr().err
    assert (tmp_path / "run.yaml").read_text() == "mine"


def test_several_cards_share_the_work(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    assert main(["init", "vqa", str(FIXTURES / "v2_6"), "--card", "2x80", "--output", str(file)]) == 0
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert (written["deepspeed"], written["num_processes"], written["lora_preset"]) == ("zero2", 2, "official")
    assert "# Memory of each card at the peak, as estimated for the longest rows" in file.read_text(encoding="utf-8")


def test_missing_data_are_named_and_what_is_printed_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_task("vqa", tmp_path)
    model = str(FIXTURES / "v2_6")
    assert main(["init", "vqa", model, "trian.json", "--card", "cpu", "--output", "a b.yaml"]) == 0
    printed = "".join(capsys.readouterr())
    assert "notice: trian.json: found no such file in" in printed
    assert "did you mean 'train.json'?" in printed
    assert "Next: minicpmv train 'a b.yaml' --dry_run true\n" in printed
    written = (tmp_path / "a b.yaml").read_text(encoding="utf-8")
    assert written.startswith(f"# Recipe for questions about pictures with short answers: {model} on the processor.\n")
    assert "#   minicpmv train 'a b.yaml'\n" in written


@pytest.mark.slow
def test_card_decides_what_is_added(tmp_path: Path) -> None:
    model = tmp_path / "released"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(RELEASED["2.5"] | {"model_type": "minicpmv"}), encoding="utf-8")
    file = tmp_path / "run.yaml"
    assert main(["init", "vqa", str(model), "train.json", "--card", "16", "--output", str(file)]) == 0
    parse_arguments(with_settings_file([str(file)]))
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert (written["q_lora"], written["lora_preset"]) == (True, "adapters_only")
    assert "# q_lora needs bitsandbytes: " in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vqq", "m"], "did you mean vqa?"),
        *(
            (["vqa", str(FIXTURES / "v2_6"), "--card", card], f"--card: found {card!r}, expected a size such as 24 or")
            for card in ("big", "0", "8x", "0x24", "")
        ),
        (
            ["vqa", str(FIXTURES / "v2_6"), "--card", "17x80"],
            "--card: found '17x80', expected at most 16 cards, those of",
        ),
        (["vqa", str(FIXTURES / "v2_6"), "--output", "."], "--output '.': found a folder, expected a file to write"),
        (["vqa", str(FIXTURES / "v2_6"), "--output", "no/such.yaml"], "--output 'no/such.yaml': found no folder 'no'"),
        pytest.param(["vqa", str(FIXTURES / "v2_6"), "--card", "0.01GB"], "expected at least", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["init", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run.yaml").exists()
