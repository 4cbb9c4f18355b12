"""Names that hold control characters, given to every command: none reaches the output as it is, none forges a line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.run.forked import minicpmv
from tests.run.training import flags, make_data
from tests.tiny import FIXTURES

NAME = "n\x1b[2J\r\x9b\u202e\nerror: forged"
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e]|^error: forged", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of that name with data, a model, answers, an adapter and a run below it."""
    folder = tmp_path_factory.mktemp("names") / NAME
    folder.mkdir()
    data = make_data(folder, num_records=3)
    shutil.copy(data, folder / f"{NAME}.json")
    shutil.copytree(FIXTURES / "v2_6", folder / "model")
    told = minicpmv("train", *flags(data, folder / "run", "--use_lora", "true", model=str(folder / "model"), steps=1))
    assert told.returncode == 0, told.stderr
    assert NAME.partition("\n")[0] not in told.stdout
    check(told.stdout, told.stderr)
    return folder


def check(*printed: str) -> None:
    for text in printed:
        found = _RAW.search(text)
        assert found is None, text[max(found.start() - 80, 0) : found.end() + 20]


COMMANDS = (
    "check {0}/train.json",
    "check {0}/{1}.json --model {0}/model",
    "check {0}/nothing.json",
    "check {0}",
    "convert {0}/{1}.json --output {0}/out/{1}.jsonl",
    "convert {0}/train.json --output {0}/model",
    "show {0}/train.json --model {0}/model --output {0}/{1}.html",
    "show {0}/train.json --model {0}/{1} --output {0}/x.html",
    "predict {0}/model {0}/train.json --output {0}/{1}.jsonl --max-new-tokens 1",
    "predict {0}/{1} {0}/train.json --output {0}/y.jsonl",
    "eval {0}/model {0}/train.json --output {0}/{1}.scores --max-new-tokens 1",
    "eval --predictions {0}/{1}.jsonl",
    "compare {0}/{1}.jsonl {0}/nothing",
    "report {0}/run",
    "report {0}/{1}",
    "merge {0}/run {0}/{1}.merged --no-verify",
    "merge {0}/run {0}/run",
    "export {0}/model --output {0}/train.json",
    "chat {0}/run {1}",
    "chat {0}/{1} hello",
    "demo --output {0}/train.json",
    "estimate {0}/{1}",
    "serve {0}/{1}",
    "ui {0}/{1}",
    "explain {1}",
    "{1}",
    "train --model_name_or_path {0}/{1} --data_path {0}/train.json --output_dir {0}/new --use_lora true",
    "train --model_name_or_path {0}/model --data_path {0}/{1} --output_dir {0}/new --use_lora true",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_name_drives_the_terminal_or_forges_a_line(folder: Path, command: str) -> None:
    done = minicpmv(*(word.format(folder, NAME) for word in command.split()))
    check(done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr[-800:]
    assert done.returncode in (0, 1, 2)


@pytest.mark.parametrize(
    "command", ["report {0}/run --output {0}/a.html", "show {0}/train.json --model {0}/model --output {0}/b.html"]
)
def test_pages_show_escapes(folder: Path, command: str) -> None:
    assert minicpmv(*(word.format(folder) for word in command.split())).returncode == 0
    text = (folder / command.rpartition("/")[2]).read_text(encoding="utf-8")
    assert "\\x1b[2J" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
