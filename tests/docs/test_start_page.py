"""What the start pages say a user has to write is what they show."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.docs.repository import ROOT, code_blocks

_PAGES = [ROOT / "docs" / "start.md", ROOT / "docs" / "zh" / "start.md"]
_WAYS = ("finetune_lora.sh", "minicpmv train", "minicpmv train run.yaml", "minicpmv.train(...)")


def _one(page: Path, language: str, text: str) -> list[str]:
    """Return the lines of the one block that trains in a certain way, without empty ones."""
    (block,) = (each for each in code_blocks(page, language) if re.search(text, each))
    return [line for line in block.splitlines() if line]


def _shown(page: Path) -> dict[str, list[list[str]]]:
    """Return for each way what is to be typed as commands, in files, and in Python."""
    return {
        "finetune_lora.sh": [_one(page, "shell", r"sh finetune_lora\.sh"), [], []],
        "minicpmv train": [_one(page, "shell", r"minicpmv train --"), [], []],
        "minicpmv train run.yaml": [_one(page, "shell", r"minicpmv train run"), _one(page, "yaml", "^model"), []],
        "minicpmv.train(...)": [[], [], _one(page, "python", r"minicpmv\.train")],
    }


@pytest.mark.parametrize("page", _PAGES, ids=["en", "zh"])
def test_commands_files_and_lines_are_counted_right(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|`]+`([^`]+)` \| (\d) \| (\d) \| (\d+) \|$", text, re.MULTILINE)
    counted = {way: [int(number) for number in numbers] for way, *numbers in rows}
    assert tuple(counted) == _WAYS
    for way, (commands, file, python) in _shown(page).items():
        assert counted[way] == [len(commands), int(bool(file)), len(commands + file + python)], way


@pytest.mark.parametrize("page", _PAGES, ids=["en", "zh"])
def test_every_way_trains_with_the_same_settings(page: Path) -> None:
    """But the script, which is LoRA and names its own output."""
    shown = _shown(page)
    (command,) = shown["minicpmv train"][0]
    words = [word.removeprefix("--") for word in shlex.split(command)[2:]]
    (call,) = (
        node for node in ast.walk(ast.parse("\n".join(shown["minicpmv.train(...)"][2]))) if isinstance(node, ast.Call)
    )
    model, data = (ast.literal_eval(argument) for argument in call.args)
    keywords = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    settings = yaml.safe_load("\n".join(shown["minicpmv train run.yaml"][1]))
    assert settings == {"model": model, "data": data, **keywords}
    assert settings == {name: yaml.safe_load(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    assert shown["finetune_lora.sh"][0][0].startswith(f"MODEL={model} DATA={data} ")
