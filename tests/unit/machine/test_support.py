"""What is refused, in words that tell the reader how to go on."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from minicpmv.errors import MachineError
from minicpmv.machine.placement import processes_on, refuse_crowding
from minicpmv.machine.support import describe_untested, refuse_unusable
from minicpmv.machine.torch_builds import install_build
from minicpmv.machine.value import Accelerator, Machine, TorchBuild
from tests.machines import CPU, GPU, OLD_GPU, card, machine_with

SEVERAL = machine_with(shown=("NVIDIA GPU",) * 8, driver="550.54.15")
_CU126 = install_build("2.13.0", "cu126")
_CU130 = _CU126.replace("cu126", "cu130")
_CPU = "--use_cpu true runs on the CPU"


def refused(machine: Machine) -> tuple[str, str]:
    """What is found and expected, and what mends it."""
    with pytest.raises(MachineError) as caught:
        refuse_unusable(machine, on_processor="--use_cpu true")
    found, _, fix = str(caught.value).partition("\n  fix: ")
    return found, fix


def test_driver_that_is_too_old_for_the_installed_torch() -> None:
    found, fix = refused(SEVERAL)
    assert found == (
        "machine: found 8 NVIDIA GPUs (driver 550.54.15) that torch 2.13.0+cu130, built for CUDA 13.0, cannot use, "
        "expected a working driver of version 580 or later"
    )
    assert re.fullmatch(rf"update the driver; or [^;]*: {re.escape(_CU126)}; or {_CPU}", fix)


def test_driver_that_is_too_old_for_every_torch() -> None:
    assert refused(replace(SEVERAL, driver="470.82.01"))[1] == f"update the driver; or {_CPU}"


def test_driver_that_nobody_says_may_be_any() -> None:
    """Such as under WSL2."""
    found, fix = refused(replace(SEVERAL, driver=None, shown=("NVIDIA GPU",)))
    assert found.startswith("machine: found 1 NVIDIA GPU that torch")
    assert fix.startswith("update the driver (`nvidia-smi`")
    assert _CU126 in fix


def test_new_driver_that_does_not_work_is_not_called_old() -> None:
    """torch's own words say why, such as a fabric manager that is not running."""
    machine = replace(SEVERAL, driver="580.65.06", complaint="Error 802: system not yet initialized")
    found, fix = refused(machine)
    assert "cannot use (Error 802: system not yet initialized), expected" in found
    assert "`nvidia-smi`" in fix
    assert "driver" not in fix
    assert fix.endswith(f"(a container needs --gpus all); or {_CPU}")


@pytest.mark.parametrize(("driver", "install"), [("580.65.06", _CU130), ("535.1.1", _CU126), (None, _CU126)])
def test_torch_without_cuda_beside_a_card(driver: str | None, install: str) -> None:
    found, fix = refused(replace(CPU, shown=("NVIDIA GPU",), driver=driver))
    assert found.endswith("that torch 2.13.0+cpu, built for no GPU, cannot use, expected a torch built for CUDA")
    assert fix == f"{install}; or {_CPU}"


def test_card_without_kernels_in_this_torch() -> None:
    found, fix = refused(machine_with(card("Tesla V100-SXM2-16GB", (7, 0))))
    assert found == (
        "machine: found that torch 2.13.0+cu130, built for CUDA 13.0, has no kernels for Tesla V100-SXM2-16GB "
        "(compute capability 7.0), expected one that has them"
    )
    assert fix == f"{_CU126}; or {_CPU}"


@pytest.mark.parametrize(
    ("machine", "found"),
    [
        (machine_with(Accelerator(name="mps", kind="mps")), "an Apple GPU (MPS)"),
        (machine_with(Accelerator(name="npu", kind="npu")), "a Huawei Ascend NPU"),
        (machine_with(Accelerator(name="xpu", kind="other")), "a device of the kind 'xpu'"),
        (replace(CPU, shown=("Ascend NPU",)), "1 Ascend NPU that torch 2.13.0+cpu, built for no GPU, cannot use"),
    ],
)
def test_untested_kinds_are_refused_with_the_way_to_go_on(machine: Machine, found: str) -> None:
    said, fix = refused(machine)
    assert f"found {found}" in said or f"found that {found}" in said
    assert "expected an NVIDIA GPU" in said
    assert fix == _CPU


def test_rocm_is_used_with_a_word() -> None:
    build = TorchBuild(version="2.13.0+rocm6.4", platform="ROCm", platform_version="6.4")
    machine = machine_with(*[Accelerator(name="AMD Instinct MI300X", kind="rocm")] * 8, torch=build)
    refuse_unusable(machine, on_processor="--use_cpu true")
    (notice,) = describe_untested(machine)
    assert notice.startswith("machine: ")
    assert "AMD Instinct MI300X" in notice


@pytest.mark.parametrize("machine", [CPU, GPU, OLD_GPU])
def test_what_works_is_not_talked_about(machine: Machine) -> None:
    refuse_unusable(machine, on_processor="--use_cpu true")
    assert describe_untested(machine) == []


SLICE = card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", (8, 0), 19.5)


def test_each_card_has_one_process() -> None:
    assert [processes_on(each).value for each in (CPU, OLD_GPU, GPU, machine_with(SLICE))] == [1, 1, 2, 1]


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (replace(GPU, num_processes=8, num_local_processes=8), "found 8 processes for 2 GPUs"),
        (machine_with(SLICE, num_processes=2, num_local_processes=2), "on slices of cards .*MIG 3g.20gb"),
        (machine_with(SLICE, num_processes=2, num_local_processes=1), r"found 2 processes .*NCCL"),
    ],
)
def test_processes_that_cannot_work_together_are_refused(machine: Machine, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        refuse_crowding(machine)


@pytest.mark.parametrize(
    "machine",
    [
        replace(CPU, num_processes=8, num_local_processes=8),
        replace(GPU, num_processes=4, num_local_processes=2),
        machine_with(SLICE),
    ],
)
def test_processes_with_a_device_each_are_not(machine: Machine) -> None:
    refuse_crowding(machine)
