"""The two scripts, unedited, as a newcomer runs them: the demo learns its task, by seeing, and what is saved works.

By default one epoch is trained, with the variable that users have for it, and a prepared Python. The slow form is the
README's command: five epochs, and nothing prepared.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.precision import chosen_precision
from tests.run.prepared import prepared_python

ROOT = Path(__file__).resolve().parents[2]
WHOLE = 5
"""Epochs of the scripts."""
LEAST_ACCURACY = {1: 0.3, WHOLE: 0.9}
"""After so many epochs; 46 and 97 % were measured. Without seeing the images it would be 10 %."""


@dataclass(frozen=True)
class Run:
    """One run of a script, and where it left things."""

    demo: Path
    output: Path
    python: str
    epochs: int = WHOLE
    printed: str = ""

    def accuracy(self, when: str) -> float:
        found = re.search(rf"^{when}: +exact match ([0-9.]+)% of", self.printed, re.MULTILINE)
        assert found is not None, self.printed
        return float(found.group(1)) / 100

    def shell(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return shell(command, self.python, **variables)


def shell(command: str, python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as typed in the repository, with an interpreter's environment active."""
    path = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHON": python} | variables
    if chosen_precision() != "fp32":  # otherwise nothing is said, as a newcomer says nothing
        environment["PRECISION"] = chosen_precision()
    return subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def run_script(script: str, run: Run, flags: str = "") -> Run:
    kept = shlex.quote(str(run.demo.parent / "kept"))  # not where the user's own runs look
    variables = {"DEMO_DIR": str(run.demo), "OUTPUT_DIR": str(run.output)}
    if run.epochs != WHOLE:
        variables["EPOCHS"] = str(run.epochs)
    done = run.shell(f"sh {script} --data_cache {kept} {flags}", **variables)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return replace(run, printed=done.stdout)


@pytest.fixture(scope="module", params=[1, pytest.param(WHOLE, marks=pytest.mark.slow)], ids="{} epochs".format)
def lora(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, is_whole = tmp_path_factory.mktemp("lora"), request.param == WHOLE
    python = sys.executable if is_whole else prepared_python()
    return run_script("finetune_lora.sh", Run(folder / "demo", folder / "out", python, request.param))


def test_lora_teaches_the_demo_what_it_could_not_do(lora: Run) -> None:
    """The base has never seen a handwritten digit nor this question."""
    assert lora.accuracy("Before") <= 0.20
    assert lora.accuracy("After") >= LEAST_ACCURACY[lora.epochs]


def test_right_answers_are_counted_after_every_epoch(lora: Run) -> None:
    steps = [225 * (epoch + 1) for epoch in range(lora.epochs)]
    line = rf"^step (\d+)/{steps[-1]}  eval loss [0-9.]+  exact_match ([0-9.]+)$"
    found = re.findall(line, lora.printed, re.MULTILINE)
    assert [int(step) for step, _ in found] == steps
    assert float(found[-1][1]) >= LEAST_ACCURACY[lora.epochs]


def test_the_gain_comes_from_seeing_the_images(lora: Run) -> None:
    """Held-out has each of ten digits equally often, so whoever does not look is right one time in ten."""
    done = lora.shell(f"minicpmv eval {lora.output} {lora.demo}/heldout.json --blank-images --json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["exact_match"]["value"] == pytest.approx(0.1, abs=0.05)


def test_the_report_shows_answers_before_and_after(lora: Run) -> None:
    assert f"Report: {lora.output}/report.html" in lora.printed
    page = (lora.output / "report.html").read_text(encoding="utf-8")
    assert "Answers before and after" in page
    assert page.count("became right</p>") >= 24
    assert page.count('<img src="data:image/png;base64,') > 24


def test_the_printed_chat_command_works_when_pasted(lora: Run) -> None:
    (command,) = re.findall(r"^Chat: +(.+)$", lora.printed, re.MULTILINE)
    done = lora.shell(command)
    assert done.returncode == 0, done.stderr
    first = json.loads((lora.demo / "heldout.json").read_text(encoding="utf-8"))[0]
    assert shlex.split(command)[-1] in first["conversations"][0]["content"]
    assert done.stdout.strip() in {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}


@pytest.mark.long
@pytest.mark.parametrize("is_prepared", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_full_training_trains_every_parameter_and_saves_a_directory_that_loads(
    is_prepared: bool, tmp_path: Path
) -> None:
    """Few of the demo's steps: enough to see every part move and the result load in another process."""
    python = prepared_python() if is_prepared else sys.executable
    run = run_script("finetune_ds.sh", Run(tmp_path / "demo", tmp_path / "out", python), "--max_steps 20 --measure 24")
    record = json.loads((run.output / "run.json").read_text(encoding="utf-8"))
    assert {part["part"] for part in record["trained"]} >= {"vision tower", "resampler", "language model"}
    assert all(part["trainable"] == part["parameters"] for part in record["trained"])
    check = (
        "import minicpmv, sys, torch\n"
        "from safetensors.torch import load_file\n"
        "from transformers import AutoModelForCausalLM, AutoProcessor\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "AutoProcessor.from_pretrained(sys.argv[1])\n"
        "base = load_file(sys.argv[2] + '/model.safetensors')\n"
        "moved = [not torch.equal(base[k], v.to(base[k].dtype)) for k, v in model.state_dict().items()]\n"
        "print(type(model).__name__, sum(moved), len(base))\n"
    )
    command = [python, "-c", check, str(run.output), str(run.demo / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, moved, total = done.stdout.split()
    assert name == "MiniCPMVForConditionalGeneration"
    assert int(moved) >= 0.95 * int(total), "all but a few norms must differ from the base even in bfloat16"
