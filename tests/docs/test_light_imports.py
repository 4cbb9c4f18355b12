"""What must answer at once does not wait for torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tiny import conversation, save_picture, write_data

_HEAVY = ("torch", "transformers", "accelerate", "peft", "deepspeed")


_COMMANDS = [
    ["--help"],
    ["--version"],
    ["chat", "--help"],
    ["eval", "--help"],
    ["serve", "--help"],
    ["ui", "--help"],
    ["show", "--help"],
    ["convert", "--help"],
    ["demo", "-h"],
    ["scripts", "-h"],
    ["push", "-h"],
    ["check", "-h"],
    ["estimate", "-h"],
    ["init", "-h"],
    ["compare", "-h"],
    ["report", "-h"],
    ["merge", "-h"],
    ["eval", "--metrics", "list"],
    ["explain"],
    ["train", "--help"],
    ["train"],
    ["train", "--lerning_rate", "1e-4"],
]

_MODULES = [
    "minicpmv",
    "minicpmv.errors",
    "minicpmv.releases.table",
    "minicpmv.processing.pictures.slicing",
    "minicpmv.processing.pictures.canvas",
    "minicpmv.processing.text.chat",
    "minicpmv.processing.pictures.patches",
    "minicpmv.data.records.record",
    "minicpmv.data.records.reading",
    "minicpmv.data.checks.checking",
    "minicpmv.data.sources.mixing",
    "minicpmv.data.sources.conversion",
    "minicpmv.data.sources.survey",
    "minicpmv.data.sources.survey_report",
    "minicpmv.evaluation.comparison",
    "minicpmv.evaluation.scores",
    "minicpmv.report.writing",
    "minicpmv.cli.main",
]

_REPORT = f"""
import contextlib, importlib, io, json, sys

def heavy():
    return {{name for name in {_HEAVY!r} if name in sys.modules}}

loaded, before = [], heavy()
for modules, arguments in json.loads(sys.argv[1]):
    for module in modules:
        importlib.import_module(module)
    if arguments:
        from minicpmv.cli.main import main
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            main(arguments)
    loaded.append(sorted(heavy() - before))
    before = heavy()
print(json.dumps(loaded))
"""


def _loaded_by(steps: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[list[str]]:
    """Return which heavy packages each step is the first to load: modules to import and a command, in one process."""
    words = [sys.executable, "-c", _REPORT, json.dumps(steps)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_modules_and_help_load_nothing_heavy() -> None:
    steps = [*(([module], []) for module in _MODULES), *(([], arguments) for arguments in _COMMANDS)]
    loaded = {str(step): heavy for step, heavy in zip(steps, _loaded_by(steps), strict=True) if heavy}
    assert loaded == {}


def test_what_loads_something_heavy_is_named() -> None:
    assert _loaded_by([(["json"], []), (["transformers.utils.versions"], []), (["csv"], [])]) == [
        [],
        ["transformers"],
        [],
    ]


def test_checking_data_loads_nothing_heavy(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    data = write_data(tmp_path / "train.json", [{"image": "a.png", "conversations": conversation("Why?", "So.")}])
    assert _loaded_by([([], ["check", data]), ([], ["check", data, "--json"])]) == [[], []]


@pytest.mark.long
def test_a_model_directory_loads_whichever_is_imported_first() -> None:
    """The hook works before and after transformers."""
    for code in ("import minicpmv, transformers", "import transformers, minicpmv"):
        check = "from transformers import AutoConfig; assert 'minicpmv' in transformers.CONFIG_MAPPING"
        subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True, capture_output=True)
