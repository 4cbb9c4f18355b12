"""Chooses the build of torch that an NVIDIA driver can run: ``python -m minicpmv.machine.torch_builds``, without torch.

``scripts/install.sh`` asks it before torch is there, and messages about a torch that cannot use a card name its builds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from minicpmv.machine.installed import install_command
from minicpmv.machine.system import driver_version

__all__ = ["DRIVERS", "OLDEST_BUILD", "fitting_build", "install_build", "words_for_pip"]

DRIVERS = {"cu130": 580, "cu126": 525}
"""Builds of torch, newest first, and the oldest driver for each, from its CUDA's table in
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html."""
OLDEST_BUILD = "cu126"
"""The build with kernels for cards before Turing; torch 2.15 has none (https://github.com/pytorch/pytorch/issues/190385)."""

_INDEX = "https://download.pytorch.org/whl"
"""Each build is in an index of its own below it (https://pytorch.org/get-started/locally)."""


def fitting_build(driver: str | None) -> str | None:
    """Return the newest build that a driver runs; None where the driver is unknown or too old for all.

    >>> fitting_build("550.54.15"), fitting_build("580.65.06"), fitting_build("470.82.01")
    ('cu126', 'cu130', None)
    """
    has = int(driver.partition(".")[0]) if driver else 0
    return next((build for build, needed in DRIVERS.items() if has >= needed), None)


def install_build(release: str, build: str) -> str:
    """Return the command that installs a build of torch.

    Args:
        release: Version of torch, such as ``2.13.0``.
        build: A key of ``DRIVERS``.
    """
    return install_command(f"torch=={release}+{build}", "--extra-index-url", f"{_INDEX}/{build}")


def words_for_pip(environment: Mapping[str, str], driver: str | None) -> str:
    """Return the words after ``pip install`` that bring the torch for this machine.

    Package indexes offer the newest build. Another index is named only where that build cannot work and the user has
    chosen none.

    Args:
        environment: Has pip's own variables.
        driver: Version of NVIDIA's driver; None where there is none, such as on a login node without GPUs.
    """
    newest, build = next(iter(DRIVERS)), fitting_build(driver)
    is_chosen = any(_INDEX in environment.get(name, "") for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"))
    return "torch" if build in (None, newest) or is_chosen else f"--extra-index-url {_INDEX}/{build} torch"


if __name__ == "__main__":
    sys.stdout.write(words_for_pip(os.environ, driver_version()) + "\n")
