"""The scripts, the command, Python and ``minicpmv init`` train by one recipe."""

from __future__ import annotations

import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import minicpmv
from minicpmv.models.skeleton import build_skeleton
from minicpmv.recipes import recipe as recipes
from minicpmv.recipes.tasks import TASKS
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.declared.recipe import RECIPE_NAMES, recipe_of, sharding_of, write_value
from minicpmv.training.flags.resolution import build_training_arguments, resolve_settings
from minicpmv.training.learning.switches import resolve_learning
from tests.docs.repository import ROOT
from tests.machines import CPU
from tests.tiny import FIXTURES

_MODEL = str(FIXTURES / "v2_6")
_STAND_INS = """
train_by_file() { :; }
prepare() { GPUS_PER_NODE=1 MASTER_PORT=1 BF16=false FP16=false; }
torchrun() { printf '%s\\n' "$@"; }
finish() { :; }
"""
_DIFFERENT = {"deepspeed", "logging_steps", "max_slice_nums"}
"""What the scripts say and the others do not; docs/training.md has why."""
_SCRIPTS = {
    "finetune_lora.sh": ["--use_lora", "true"],
    "finetune_ds.sh": [],
    "finetune_dpo.sh": ["--use_lora", "true", "--objective", "dpo"],
}


def words_of(script: str, data: str, output: str) -> list[str]:
    """Return the flags of an unchanged script: what starts processes is replaced by something that prints them."""
    text = (ROOT / script).read_text(encoding="utf-8").replace('. "$ROOT/scripts/finetune.sh"', _STAND_INS)
    environment = {"PATH": "/usr/bin:/bin", "MODEL": _MODEL, "DATA": data, "OUTPUT_DIR": output}
    ran = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.split("minicpmv.training\n")[1].splitlines()


def words_of_python(monkeypatch: pytest.MonkeyPatch, data: str, output: str, **settings: Any) -> list[str]:
    """Return the flags that ``minicpmv.train`` starts a run with."""
    started: list[str] = []
    monkeypatch.setattr("minicpmv.api.train._run", lambda words, events, **_: started.extend(words))
    minicpmv.train(_MODEL, data, output=output, dry_run=True, **settings)
    return [word for word in started if word != "--dry_run=true"]


def resolved(words: list[str]) -> dict[str, Any]:
    """Return every setting of a run as it is when training begins."""
    request = parse_arguments(words)
    found = resolve_settings(request, CPU)
    run, _ = resolve_learning(found.run, build_skeleton(Path(_MODEL)), given=request.given)
    ours = asdict(run) | {"preference_loss": None if run.mixture is None else str(run.mixture)}
    args = build_training_arguments(dict(found.training) | {"deepspeed": None})
    return ours | args.to_dict() | {"deepspeed": found.training.get("deepspeed")}


@pytest.mark.parametrize("script", _SCRIPTS)
def test_unchanged_script_command_and_python_train_alike(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = str(tmp_path / "train.json"), str(tmp_path / "output")
    own = _SCRIPTS[script]
    of_script = resolved(words_of(script, data, output))
    command = resolved(["--model", _MODEL, "--data", data, "--output", output, *own])
    settings = {name.removeprefix("--"): value for name, value in zip(own[::2], own[1::2], strict=True)}
    python = resolved(words_of_python(monkeypatch, data, output, **settings))
    assert python == command
    # transformers puts the hour into the name of its folder
    differing = {name for name in command if of_script[name] != command[name]} - {"logging_dir"}
    assert differing == _DIFFERENT


@pytest.mark.parametrize("script", _SCRIPTS)
def test_script_names_the_preset_that_init_writes_for_several_cards(script: str) -> None:
    text = (ROOT / script).read_text(encoding="utf-8")
    assert f"--deepspeed {sharding_of(use_lora='--use_lora true' in text)} " in text


@pytest.mark.parametrize("task", TASKS)
def test_init_writes_the_values_of_the_recipe(task: str) -> None:
    objective = "dpo" if task == "preference" else "sft"
    recipe = recipe_of(objective, use_lora=True)
    written = yaml.safe_load("".join(recipes.sections_of(task)))
    of_recipe = {name: value for name, value in written.items() if name in RECIPE_NAMES}
    assert of_recipe == {name: yaml.safe_load(write_value(recipe[name])) for name in of_recipe}
    assert {"learning_rate", "weight_decay", "gradient_accumulation_steps", "measure"} <= of_recipe.keys()


def test_document_has_the_values_and_the_differences_of_the_scripts() -> None:
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    section = page.partition("**One recipe.**")[2].partition("\n### ")[0]
    values, _, differences = section.partition("are in the scripts alone")
    assert set(re.findall(r"(?m)^\| `--(\w+)` \|", differences)) == _DIFFERENT
    table = [line.strip("|").split("|") for line in values.splitlines() if line.startswith("| `--")]
    cells = [[(cell.split() or [""])[0].strip("`,-") for cell in row] for row in table]
    full, lora = (recipe_of("sft", use_lora=use_lora) for use_lora in (False, True))
    dpo = recipe_of("dpo", use_lora=False)
    for name, *written in cells:
        of_full = "" if name == "lora_preset" else write_value(full[name])
        assert written == [of_full, write_value(lora[name]), write_value(dpo[name])]
    of_all = dict(re.findall(r"`--(\w+) ([\w.]+)`", values.partition("same in all")[2]))
    assert of_all == {name: write_value(full[name]) for name in of_all}
    assert {name for name, *_ in cells} | of_all.keys() == RECIPE_NAMES - {"per_device_eval_batch_size", "report_to"}
