"""The command's own face: help, version, wrong use."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from minicpmv import __version__
from minicpmv.cli.main import main
from tests.processes import started


@pytest.mark.parametrize(
    "command", ["check", "chat", "predict", "eval", "show", "convert", "demo", "scripts", "push", "ui"]
)
def test_every_help_ends_with_two_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    *_, first, second = capsys.readouterr().out.rstrip().splitlines()
    assert first.startswith("  minicpmv ")
    assert second.startswith("  minicpmv ")


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"minicpmv-finetune {__version__}\n"


@pytest.mark.parametrize("given", [["nonsense"], ["chat"], ["eval", "model", "data.json", "--batch-size", "0"]])
def test_wrong_use_exits_with_2(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(given)
    told = capsys.readouterr().err
    assert "usage" not in told
    assert re.fullmatch(r"error: .*found .*, expected .*\n  fix: .*\n", told)


def test_a_reader_who_has_seen_enough_causes_no_traceback() -> None:
    """As `minicpmv explain | head -1`, with a pipe that is closed before the first line."""
    command = [sys.executable, "-u", "-m", "minicpmv", "explain"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141
