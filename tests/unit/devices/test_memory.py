"""Memory within a container is the container's."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from minicpmv.devices import memory

_CPU = torch.device("cpu")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    return tmp_path


def test_without_a_limit_the_machine_counts(container: Path) -> None:
    (container / "memory.max").write_text("max\n")
    (container / "memory.current").write_text("1000\n")
    assert memory.total_memory(_CPU) == psutil.virtual_memory().total
    assert memory.free_memory(_CPU) > 2**20


def test_limit_counts_and_cached_files_are_free(container: Path) -> None:
    (container / "memory.max").write_text("100000\n")
    (container / "memory.current").write_text("90000\n")
    assert (memory.total_memory(_CPU), memory.free_memory(_CPU)) == (100_000, 10_000)
    (container / "memory.stat").write_text("anon 60000\ninactive_file 30000\nactive_file 0\n")
    assert memory.free_memory(_CPU) == 40_000


def test_no_container_is_no_limit(container: Path) -> None:
    assert memory.total_memory(_CPU) == psutil.virtual_memory().total
