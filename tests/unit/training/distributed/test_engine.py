"""A DeepSpeed that is missing is asked for by the line that installs it, where it can be installed."""

from __future__ import annotations

import re
import sys

import pytest

from minicpmv.errors import ConfigError
from minicpmv.machine.installed import install_command
from minicpmv.training.distributed.engine import load_deepspeed
from tests.docs.repository import ROOT


@pytest.mark.parametrize(("platform", "can_be_installed"), [("linux", True), ("darwin", False), ("win32", False)])
def test_missing_deepspeed_is_offered_on_linux_alone(
    platform: str, can_be_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the versions that pyproject.toml asks for."""
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setattr(sys, "platform", platform)
    (bounds,) = re.findall(r'"(deepspeed[^;]+); sys_platform == \'linux\'"', (ROOT / "pyproject.toml").read_text())
    with pytest.raises(ConfigError) as caught:
        load_deepspeed()
    fix = str(caught.value).partition("\n  fix: ")[2]
    assert fix.startswith(install_command(bounds)) == can_be_installed
    assert fix.endswith("remove --deepspeed, which one process does not need")
