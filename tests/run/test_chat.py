"""``minicpmv chat`` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity.cases import FIXTURES

SLICED = "images/wide_150x80.png"


def minicpmv(*arguments: str | Path, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minicpmv", *map(str, arguments)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, encoding="utf-8", check=False)


def released_answer(version: str, name: str) -> str:
    entries = json.loads((FIXTURES / version / "inference.json").read_text(encoding="utf-8"))["entries"]
    return next(entry for entry in entries if entry["name"] == name)["generated_text"]


@pytest.mark.parametrize("version", ["v2", "v2_5", "v2_6"])
def test_one_question_about_a_picture_gets_the_released_answer(version: str) -> None:
    model = FIXTURES / version
    image = model / "images" / "sq_50x50.png"
    done = minicpmv("chat", model, "--image", image, "What is in the image?", "--max-new-tokens", "12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == released_answer(version, "image_unsliced").strip()


def test_a_dialogue_remembers_what_was_said_and_shown() -> None:
    model = FIXTURES / "v2_6"
    typed = "Hello world, how are you?\n/image {0}\nAnd this one?\n/clear\nHello world, how are you?\n"
    done = minicpmv("chat", model, "--max-new-tokens", "6", typed=typed.format(model / SLICED))
    assert done.returncode == 0, done.stderr
    alone = minicpmv("chat", model, "--max-new-tokens", "6", "Hello world, how are you?").stdout
    assert done.stdout.startswith(alone)
    assert done.stdout.endswith(alone), "after /clear the first question is answered as if nothing had been said"
    assert len(done.stdout) > 2 * len(alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all", "hi"], "found no directory 'nowhere/at/all'"),
        ([FIXTURES / "v2_6", "--image", "no.png", "hi"], "found no file 'no.png'"),
        ([FIXTURES / "components", "hi"], "found neither config.json nor adapter_config.json"),
        ([FIXTURES / "v2", "--system", "Be brief.", "hi"], "found 'system', expected one of user, assistant"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(arguments: list[str | Path], message: str) -> None:
    done = minicpmv("chat", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_adapter_without_its_base_names_both(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone/base"}', encoding="utf-8")
    done = minicpmv("chat", tmp_path, "hi")
    assert done.returncode == 2
    assert "names '/gone/base', found no such directory" in done.stderr
