"""Documents say what is so: links lead somewhere, commands and files exist, examples are valid."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from minicpmv.data.sources.loading import load_records
from tests.docs.repository import DOCUMENTS, ROOT, SCRIPTS, code_blocks, tracked_text_files, without_code

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MACHINE_PATH = re.compile(r"(?<![\w.~/])/(?:home|root|work|Users|mnt|workspace)/\w")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_relative_links_lead_to_files(document: Path) -> None:
    targets = [target.partition("#")[0] for target in _LINK.findall(without_code(document.read_text(encoding="utf-8")))]
    missing = [target for target in targets if target and ":" not in target and not (document.parent / target).exists()]
    assert missing == []


def _shell_commands(document: Path) -> list[list[str]]:
    lines = [line for block in code_blocks(document, "shell") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    return [command for command in commands if command]


def _without_assignments(command: list[str]) -> list[str]:
    while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
        command = command[1:]
    return command


def test_commands_in_the_readme_exist() -> None:
    from minicpmv.cli import main

    commands = [_without_assignments(command) for command in _shell_commands(ROOT / "README.md")]
    ours = [command for command in commands if command[0] in {"sh", "minicpmv"}]
    assert len(ours) >= 4
    for command in ours:
        if command[0] == "sh":
            assert (ROOT / command[1]).is_file(), command
        else:
            with pytest.raises(SystemExit) as ended:
                main.main([command[1], "--help"])
            assert ended.value.code == 0, command


def test_variables_in_the_readme_are_variables_of_both_scripts() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| variable |")[2].partition("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    names = [name for cell in first_cells for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert {"MODEL", "DATA", "EVAL_DATA", "LLM_TYPE", "MODEL_MAX_LENGTH", "MASTER_PORT"} <= set(names)
    for script in SCRIPTS[:2]:
        text = script.read_text(encoding="utf-8")
        assert [name for name in names if f"{name}=${{{name}:-" not in text] == [], script.name


def test_data_example_of_the_readme_is_accepted(tmp_path: Path) -> None:
    """Only the picture is missing, and that is what the reader says."""
    from PIL import Image

    (example,) = code_blocks(ROOT / "README.md", "json")
    file = tmp_path / "train.json"
    file.write_text(example, encoding="utf-8")
    for record in json.loads(example):
        if "image" in record:
            picture = tmp_path / record["image"]
            picture.parent.mkdir(exist_ok=True)
            Image.new("RGB", (60, 40)).save(picture)
    assert [len(record.turns) for record in load_records(str(file))] == [4, 2]


def test_flags_in_the_readme_are_known_to_training() -> None:
    from transformers import TrainingArguments

    from minicpmv.training.flags.declarations import RunArguments

    known = {f"--{field.name}" for arguments in (RunArguments, TrainingArguments) for field in fields(arguments)}
    examples = re.findall(r"(?:finetune_\w+\.sh|minicpmv\.training)((?: [^`\n]+)?)", (ROOT / "README.md").read_text())
    flags = {flag for example in examples for flag in re.findall(r"--\w+", example)}
    assert flags
    assert flags - known == set()


def test_python_examples_of_the_readme_are_python() -> None:
    blocks = code_blocks(ROOT / "README.md", "python")
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec")


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = [
        f"{_name(path)}:{number}: {line.strip()[:80]}"
        for path in tracked_text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if _MACHINE_PATH.search(line)
    ]
    assert found == []
