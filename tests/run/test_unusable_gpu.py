"""A card that the installed torch cannot use: every command says so, and none computes on the processor unasked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.docs.repository import TRAINING_SCRIPTS
from tests.run.devices import can_show_devices, showing
from tests.run.prepared import prepared_python_within
from tests.run.training import environment, flags, make_data, read_run
from tests.tiny import FIXTURES

pytestmark = pytest.mark.skipif(not can_show_devices(), reason="needs user namespaces, to show devices")

_FOUND = "machine: found 8 NVIDIA GPUs (driver 550.54.15) that torch "
_MODEL = str(FIXTURES / "v2_6")


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """A Python on that machine."""
    with prepared_python_within(partial(showing, cards=8, driver="550.54.15")) as python:
        yield python


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    there = environment() | variables
    there.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.run(command, env=there | variables, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "on_processor"),
    [
        (["train", *flags("DATA", Path("OUTPUT"))], "--use_cpu true"),
        (["chat", _MODEL, "hello"], "--device cpu"),
        pytest.param(["predict", _MODEL, "DATA", "--output", "OUTPUT"], "--device cpu", marks=pytest.mark.slow),
        pytest.param(["serve", _MODEL, "--port", "0"], "--device cpu", marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_command_ends_with_what_was_found_and_what_mends_it(
    tmp_path: Path, python: str, words: list[str], on_processor: str
) -> None:
    places = {"DATA": make_data(tmp_path, num_records=1), "OUTPUT": str(tmp_path / "output")}
    words = [word.replace("OUTPUT", places["OUTPUT"]) if word != "DATA" else places["DATA"] for word in words]
    ended = run(python, "-m", "minicpmv", *words)
    assert ended.returncode == 2, ended.stderr
    error = ended.stderr[ended.stderr.index("error: ") :]
    assert error.startswith(f"error: {_FOUND}")
    assert "expected " in error
    assert "\n  fix: " in error
    assert on_processor in error
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("script", TRAINING_SCRIPTS, ids=lambda path: path.name)
def test_script_starts_no_process(tmp_path: Path, python: str, script: Path) -> None:
    output = tmp_path / "output"
    ended = run("sh", str(script), MODEL=_MODEL, DATA=make_data(tmp_path), OUTPUT_DIR=str(output), PYTHON=python)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {_FOUND}")
    assert "; or --use_cpu true" in ended.stderr
    assert not output.exists()


@pytest.mark.parametrize("hidden", [False, True], ids=["--use_cpu true", "CUDA_VISIBLE_DEVICES="])
def test_who_asks_for_the_processor_has_it(tmp_path: Path, python: str, hidden: bool) -> None:
    data, output = make_data(tmp_path), tmp_path / "output"
    asked = [] if hidden else ["--use_cpu", "true"]
    words = [python, "-m", "minicpmv", "train", *flags(data, output, *asked, steps=1)]
    ended = run(*words, **({"CUDA_VISIBLE_DEVICES": ""} if hidden else {}))
    assert ended.returncode == 0, ended.stderr
    assert read_run(output)["status"] == "finished"
