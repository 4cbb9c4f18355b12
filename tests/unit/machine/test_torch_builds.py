"""The build of torch is the one that the driver runs, and pip's own where nothing says otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minicpmv.machine.torch_builds import DRIVERS, fitting_build, install_build, words_for_pip

_CU126 = "https://download.pytorch.org/whl/cu126"


@pytest.mark.parametrize(
    ("driver", "build"),
    [
        ("600.1", "cu130"),
        ("580.65.06", "cu130"),
        ("579.99", "cu126"),
        ("525.60.13", "cu126"),
        ("524.9", None),
        (None, None),
    ],
)
def test_the_newest_build_that_a_driver_runs(driver: str | None, build: str | None) -> None:
    assert fitting_build(driver) == build


def test_newer_builds_come_first() -> None:
    assert list(DRIVERS.values()) == sorted(DRIVERS.values(), reverse=True)


@pytest.mark.parametrize(
    ("driver", "environment", "words"),
    [
        ("550.54.15", {}, f"--extra-index-url {_CU126} torch"),
        ("550.54.15", {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"}, "torch"),
        ("550.54.15", {"PIP_INDEX_URL": "https://mirror.example/simple"}, f"--extra-index-url {_CU126} torch"),
        ("580.65.06", {}, "torch"),
        (None, {}, "torch"),
    ],
)
def test_another_index_is_named_where_the_driver_is_old_and_nobody_has_chosen(
    driver: str | None, environment: dict[str, str], words: str
) -> None:
    assert words_for_pip(environment, driver) == words


def test_the_command_names_build_and_index() -> None:
    command = install_build("2.13.0", "cu126")
    assert command.startswith(sys.executable)
    assert command.endswith(f"install torch==2.13.0+cu126 --extra-index-url {_CU126}")


def test_the_installation_asks_without_torch() -> None:
    code = "import runpy, sys; runpy.run_module('minicpmv.machine.torch_builds', run_name='__main__')"
    ask = [sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout.endswith("torch\n")
