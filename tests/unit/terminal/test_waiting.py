"""A long wait is said on standard error; a short one is not, nor one that failed early."""

from __future__ import annotations

import time

import pytest

from minicpmv.terminal.waiting import waiting


def test_a_long_wait_is_said_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading output/lora", after=0.01):
        time.sleep(0.5)
        assert capsys.readouterr() == ("", "loading output/lora ...\n")
    assert capsys.readouterr() == ("", "")


def test_nothing_is_said_of_what_is_over_soon(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading output/lora", after=0.2):
        pass
    with pytest.raises(ValueError, match="gone"), waiting("loading output/lora", after=0.2):
        raise ValueError("gone")
    time.sleep(0.5)
    assert capsys.readouterr() == ("", "")
