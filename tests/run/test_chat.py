"""``minicpmv chat`` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.docs.repository import ROOT, code_blocks
from tests.parity.cases import FIXTURES
from tests.tiny import save_picture

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
    typed = "Hello world, how are you?\n/image {0}\nAnd this one?\n/reset\nHello world, how are you?\n"
    done = minicpmv("chat", model, "--max-new-tokens", "6", typed=typed.format(model / SLICED))
    assert done.returncode == 0, done.stderr
    alone = minicpmv("chat", model, "--max-new-tokens", "6", "Hello world, how are you?").stdout
    assert done.stdout.startswith(alone)
    assert done.stdout.endswith(alone), "after /reset the first question is answered as if nothing had been said"
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


def test_thinking_is_shown_as_it_is_written() -> None:
    """The released thinking answer; without the option the model is told not to think, and answers otherwise."""
    model = FIXTURES / "v4_5"
    question = ("--image", model / "images" / "sq_50x50.png", "What is in the image?", "--max-new-tokens", "12")
    thinking = minicpmv("chat", model, "--thinking", *question)
    assert thinking.returncode == 0, thinking.stderr
    assert thinking.stdout.strip() == released_answer("v4_5", "thinking").strip()
    plain = minicpmv("chat", model, *question)
    assert plain.returncode == 0, plain.stderr
    assert not plain.stdout.startswith("<think>")


@pytest.mark.parametrize("command", ["chat", "eval"])
def test_a_version_without_thinking_says_so_before_it_is_loaded(command: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((FIXTURES / "v2_6" / "config.json").read_bytes())  # and no weights
    data = tmp_path / "data.json"
    data.write_text('[{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]')
    done = minicpmv(command, tmp_path, data if command == "eval" else "hi", "--thinking")
    assert done.returncode == 2
    assert "found it asked of openbmb/MiniCPM-V-2_6, expected a version with a thinking mode (4.5)" in done.stderr
    assert "fix:" in done.stderr


def test_examples_of_official_scripts_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the page has them, one after another, but for names of directories and shorter answers."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", *(f"frame{number}.jpg" for number in range(4))):
        save_picture(tmp_path / name)
    generate = cast("Any", MiniCPMVForConditionalGeneration).generate
    monkeypatch.setattr(
        MiniCPMVForConditionalGeneration,
        "generate",
        lambda self, **given: generate(self, **(given | {"max_new_tokens": 4})),
    )
    examples = [block for block in code_blocks(ROOT / "docs/inference.md", "python") if "model.chat(" in block]
    assert len(examples) == 4
    names = {"V-2": "v2", "Llama3-V-2_5": "v2_5", "V-2_6": "v2_6", "V-4_5": "v4_5"}
    values: dict[str, Any] = {}
    for example in examples:
        for released, folder in names.items():
            example = example.replace(f'"openbmb/MiniCPM-{released}"', repr(str(FIXTURES / folder)))
        assert "openbmb/" not in example
        exec(compile(example, "docs/inference.md", "exec"), values)
    assert capsys.readouterr().out
    assert len(values["answers"]) == 2
    assert values["context"][-1] == {"role": "assistant", "content": values["context"][-1]["content"]}
    assert isinstance(values["res"], str)
    assert isinstance(values["answer"], str)
