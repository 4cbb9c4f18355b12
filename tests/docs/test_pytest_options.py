"""Tests see no GPU unless those that need one were asked for, and train in the precision that was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import precision
from tests.docs.repository import ROOT
from tests.gpus import asks_for_gpus
from tests.run.training import flags

_SEEN = """
import os
import sys

from tests.precision import chosen_precision

assert "torch" not in sys.modules, "it came before GPUs were hidden"

def test_it():
    print("SEEN", [os.environ["CUDA_VISIBLE_DEVICES"]], chosen_precision())
"""


@pytest.mark.parametrize(
    ("expression", "asks"),
    [
        ("", False),
        ("gpu", True),
        ("gpu and not slow", True),
        ("gpu and slow and not engines", True),
        ("slow or gpu", True),
        ("gpu or not slow", True),
        ("not slow and not engines", False),
        ("not gpu", False),
        ("slow and not gpu", False),
        ("not (gpu or slow)", False),
        ("gpu_walk", False),
        ("gpu and", False),  # pytest refuses it
    ],
)
def test_gpus_are_asked_for_by_their_mark(expression: str, asks: bool) -> None:
    assert asks_for_gpus(expression) == asks


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["-m", "not slow", "--precision", "bf16"], "SEEN [''] bf16"),
        (["-m", "gpu or not slow"], "SEEN ['7'] fp32"),
    ],
    ids=["hidden", "asked for"],
)
def test_a_test_sees_what_was_asked_for(words: list[str], seen: str, tmp_path: Path) -> None:
    """A pytest of its own, on a machine whose user shows one card."""
    file = tmp_path / "test_seen.py"
    file.write_text(_SEEN, encoding="utf-8")
    start = [sys.executable, "-m", "pytest", "-s", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "7"}
    done = subprocess.run(
        [*start, file, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen in done.stdout


def test_runs_train_in_the_precision_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that state one are left alone."""
    monkeypatch.setattr(precision, "_chosen", "bf16")
    assert "--bf16" in flags("data", tmp_path)
    assert "--bf16" not in flags("data", tmp_path, "--fp16=true")
    monkeypatch.setattr(precision, "_chosen", "fp32")
    assert "--bf16" not in flags("data", tmp_path)
