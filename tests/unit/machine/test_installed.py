"""Versions are listed of what is installed, and of nothing else."""

from __future__ import annotations

import platform

import torch

from minicpmv.machine.installed import list_versions


def test_python_and_installed_packages_are_listed_with_their_versions() -> None:
    versions = list_versions()
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert None not in versions.values()
