"""Versions are listed of what is installed, and of nothing else."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata

import pytest
import torch

from minicpmv.machine.installed import extra, install_command, list_versions
from tests.docs.repository import ROOT


def test_python_and_installed_packages_are_listed_with_their_versions() -> None:
    versions = list_versions()
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert None not in versions.values()


def test_the_command_installs_into_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command(extra("ui")) == f"{sys.executable} -m pip install 'minicpmv-finetune[ui]'"
    monkeypatch.setattr(sys, "executable", "/my place/bin/python")
    assert install_command("av>=17") == "'/my place/bin/python' -m pip install 'av>=17'"


def test_an_environment_without_pip_is_filled_by_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", without)
    assert install_command("av") == f"uv pip install --python {sys.executable} av"


def test_no_other_module_words_a_command_of_pip() -> None:
    """So that each names the Python that runs, and works without an environment that is active."""
    sources = [path for path in (ROOT / "src").rglob("*.py") if path.name not in ("installed.py", "file_kinds.py")]
    found = [path.name for path in sources if "pip install" in path.read_text(encoding="utf-8")]
    assert found == ["torch_builds.py"], "its docstring"


def test_extras_that_are_asked_for_exist() -> None:
    asked = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"""\bextra\(["'](\w+)["']\)""", path.read_text(encoding="utf-8"))
    }
    declared = re.findall(r"(?m)^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert asked >= {"data", "films", "metrics", "qlora", "serve", "ui"}
    assert asked <= set(declared)
