"""What must answer at once does not wait for torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import conversation, save_picture, write_data

_HEAVY = ("torch", "transformers", "accelerate", "peft", "deepspeed")


def _loaded_by(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after ``code``."""
    report = f"import json, sys; print(json.dumps([name for name in {_HEAVY!r} if name in sys.modules]))"
    ran = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout.splitlines()[-1]))


def _command(*arguments: str) -> str:
    return f"""
from minicpmv.cli.main import main
try:
    main({list(arguments)!r})
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["chat", "--help"],
        ["eval", "--help"],
        ["serve", "--help"],
        ["ui", "--help"],
        ["show", "--help"],
        ["convert", "--help"],
        ["demo", "-h"],
        ["check", "-h"],
        ["estimate", "-h"],
        ["compare", "-h"],
        ["report", "-h"],
        ["merge", "-h"],
        ["eval", "--metrics", "list"],
        ["explain"],
        ["train", "--help"],
        ["train"],
        ["train", "--lerning_rate", "1e-4"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert _loaded_by(_command(*arguments)) == set()


@pytest.mark.parametrize(
    "module",
    [
        "minicpmv",
        "minicpmv.errors",
        "minicpmv.releases.table",
        "minicpmv.processing.pictures.slicing",
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
    ],
)
def test_module_loads_nothing_heavy(module: str) -> None:
    assert _loaded_by(f"import {module}") == set()


def test_checking_data_loads_nothing_heavy(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    data = write_data(tmp_path / "train.json", [{"image": "a.png", "conversations": conversation("Why?", "So.")}])
    for arguments in (["check", data], ["check", data, "--json"]):
        assert _loaded_by(_command(*arguments)) == set()


def test_a_model_directory_loads_whichever_is_imported_first() -> None:
    """The hook works before and after transformers."""
    for code in ("import minicpmv, transformers", "import transformers, minicpmv"):
        check = "from transformers import AutoConfig; assert 'minicpmv' in transformers.CONFIG_MAPPING"
        subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True, capture_output=True)
