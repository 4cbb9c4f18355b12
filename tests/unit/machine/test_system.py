"""What the system shows of its hardware, in files laid out as it lays them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minicpmv.machine.system import driver_version, num_cores, shared_bytes, shown_devices


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def lay(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ((), ()),
        (("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"), ("NVIDIA GPU",) * 2),
        (("dev/nvidiactl", "dev/nvidia-uvm"), ()),  # the driver without a card
        (("dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"), ("NVIDIA GPU",)),
        (("dev/dxg", "usr/lib/wsl/lib/libd3d12.so"), ()),  # WSL2 on a laptop without one
        (("dev/davinci0", "dev/davinci1", "dev/davinci_manager"), ("Ascend NPU",) * 2),
    ],
)
def test_devices_are_known_by_their_files(tmp_path: Path, files: tuple[str, ...], shown: tuple[str, ...]) -> None:
    lay(tmp_path, *files)
    assert shown_devices(tmp_path) == shown


@pytest.mark.parametrize(
    ("value", "is_shown"),
    [("", False), (" ", False), ("-1", False), ("NoDevFiles", False), ("0", True), ("1,0", True), ("GPU-ab12", True)],
)
def test_device_that_was_hidden_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, is_shown: bool
) -> None:
    lay(tmp_path, "dev/nvidia0", "dev/dxg", "usr/lib/wsl/lib/libcuda.so.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert bool(shown_devices(tmp_path)) == is_shown


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC: 11\n",
            "550.54.15",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n",
            "580.65.06",
        ),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82\n", "470.82"),
        ("nothing of the kind\n", None),
        (None, None),
    ],
)
def test_driver_is_read_as_nvidia_writes_it(tmp_path: Path, said: str | None, version: str | None) -> None:
    if said is not None:
        lay(tmp_path, "proc/driver/nvidia/version")
        (tmp_path / "proc/driver/nvidia/version").write_text(said)
    assert driver_version(tmp_path) == version


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("99999900000 100000", None), (None, None)],
)
def test_cores_are_those_of_the_container(tmp_path: Path, limit: str | None, cores: int | None) -> None:
    if limit is not None:
        lay(tmp_path, "sys/fs/cgroup/cpu.max")
        (tmp_path / "sys/fs/cgroup/cpu.max").write_text(limit)
    assert num_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_shared_memory_is_what_is_free_of_it(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert shared_bytes(tmp_path) == pytest.approx(found.f_bavail * found.f_frsize, rel=0.01)
    assert shared_bytes(tmp_path / "nowhere") is None
