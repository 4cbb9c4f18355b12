"""What is compiled, and what is missing for it."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minicpmv.errors import MachineError
from minicpmv.machine.system import find_tools
from minicpmv.machine.tools import missing_tools, refuse_without_tools
from tests.machines import CPU


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Let the machine have these commands, and no other."""
    for variable in ("CC", "CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))

    def put(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o755)
        return tmp_path

    return put


@pytest.mark.parametrize(
    ("there", "tools"),
    [
        ((), set()),
        (("bin/gcc",), {"C compiler"}),
        (("bin/clang",), {"C compiler"}),
        (("bin/g++", "include/Python.h"), {"C++ compiler", "Python.h"}),
        (("bin/ninja", "cuda/bin/nvcc"), {"ninja", "nvcc"}),
        (("bin/nvcc",), {"nvcc"}),
    ],
)
def test_tools_are_looked_for_where_compiling_looks(
    only: Callable[..., Path], there: tuple[str, ...], tools: set[str]
) -> None:
    only(*there)
    assert find_tools() == tools


@pytest.mark.parametrize(
    ("variable", "value", "is_there"),
    [("CXX", "icpx", False), ("CXX", "ccache g++", False), ("CXX", "mine -O3", True), ("CXX", "", True)],
)
def test_compiler_of_the_environment_is_the_one_that_counts(
    only: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, is_there: bool
) -> None:
    only("bin/g++", "bin/mine")
    monkeypatch.setenv(variable, value)
    assert ("C++ compiler" in find_tools()) == is_there


def test_each_kind_needs_its_own() -> None:
    """As found by taking them away one by one, on a processor."""
    bare = replace(CPU, tools=frozenset())
    assert missing_tools(bare, "layers on a processor") == ("C++ compiler", "Python.h")
    assert missing_tools(bare, "layers on a GPU") == ("C compiler", "Python.h")
    assert missing_tools(bare, "an optimizer on the processor") == ("C++ compiler", "Python.h", "ninja")
    assert missing_tools(CPU, "a fused optimizer") == ("nvcc",)
    assert missing_tools(CPU, "an optimizer on the processor") == ()


def test_message_installs_what_is_missing() -> None:
    bare = replace(CPU, tools=frozenset({"ninja"}))
    with pytest.raises(MachineError) as caught:
        refuse_without_tools(
            bare, "an optimizer on the processor", asked_by="--deepspeed", otherwise="do without offload"
        )
    assert str(caught.value) == (
        "--deepspeed: found no C++ compiler and no Python.h, expected them: an optimizer on the processor must be "
        "compiled\n  fix: apt-get install g++ (CXX, if set, must name one), apt-get install python3-dev; or do without "
        "offload"
    )
