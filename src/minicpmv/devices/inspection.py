"""Inspects the machine with torch, and merges that with what the system shows."""

from __future__ import annotations

import warnings

import torch

from minicpmv.devices.memory import total_memory
from minicpmv.machine.system import driver_version, find_tools, num_cores, num_launched, shared_bytes, shown_devices
from minicpmv.machine.value import Accelerator, Machine, TorchBuild

__all__ = ["inspect_machine", "look_at"]


def inspect_machine() -> Machine:
    """Inspect the machine that this process runs on, and the processes that a launcher has started on it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        accelerators = _find_accelerators()
    return Machine(
        torch=_describe_torch(),
        accelerators=accelerators,
        shown=shown_devices(),
        driver=driver_version(),
        complaint=str(said[0].message).partition("(Triggered")[0].strip() if said and not accelerators else None,
        num_cores=num_cores(),
        ram_bytes=total_memory(torch.device("cpu")),
        shared_bytes=shared_bytes(),
        tools=find_tools(),
        num_processes=num_launched("WORLD_SIZE"),
        num_local_processes=num_launched("LOCAL_WORLD_SIZE"),
    )


def look_at(device: torch.device) -> Accelerator:
    """Describe an accelerator; a CPU is not one."""
    assert device.type != "cpu", "a CPU is not an accelerator"
    if device.type != "cuda":
        return Accelerator(name=device.type, kind=device.type if device.type in ("mps", "npu") else "other")
    found = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return Accelerator(name=found.name, kind="rocm", memory_bytes=found.total_memory)
    return Accelerator(
        name=found.name, kind="cuda", memory_bytes=found.total_memory, capability=(found.major, found.minor)
    )


def _find_accelerators() -> tuple[Accelerator, ...]:
    if torch.cuda.is_available():
        return tuple(look_at(torch.device("cuda", index)) for index in range(torch.cuda.device_count()))
    device = torch.accelerator.current_accelerator(check_available=True)
    return () if device is None else (look_at(device),) * torch.accelerator.device_count()


def _describe_torch() -> TorchBuild:
    if torch.version.hip is not None:
        return TorchBuild(version=torch.__version__, platform="ROCm", platform_version=torch.version.hip)
    if torch.version.cuda is None:
        return TorchBuild(version=torch.__version__, platform="no GPU")
    return TorchBuild(
        version=torch.__version__,
        platform="CUDA",
        platform_version=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()),
    )
