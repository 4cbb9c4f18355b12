"""Fixtures of whole runs."""

from __future__ import annotations

import sys

import pytest

from tests.run.prepared import prepared_python


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let what is started with the interpreter of this process begin at once, such as the proof of what was saved."""
    command = prepared_python()
    monkeypatch.setattr(sys, "executable", command)
    return command
