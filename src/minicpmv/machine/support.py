"""Decides which devices are used: each found device is used, used though untested, or refused with a way to proceed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from minicpmv.errors import MachineError
from minicpmv.machine.torch_builds import DRIVERS, OLDEST_BUILD, fitting_build, install_build
from minicpmv.machine.value import Accelerator, Choice, Machine, TorchBuild
from minicpmv.wording import counted

__all__ = ["describe_untested", "refuse_unusable", "support_of"]

Support = Literal["used", "untested", "refused"]

_MAKERS = {"mps": "an Apple GPU (MPS)", "npu": "a Huawei Ascend NPU"}

_ARCHITECTURE = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<exact>[af]?)")


def support_of(accelerator: Accelerator, torch: TorchBuild) -> Choice[Support]:
    """Decide whether an accelerator is used.

    Args:
        accelerator: What torch has found.
        torch: The installed build, which may lack kernels for this one.
    """
    if accelerator.kind == "rocm":
        return Choice("untested", f"nothing has been run yet on AMD's GPUs, such as {accelerator.name}")
    if accelerator.kind != "cuda":
        made = _MAKERS.get(accelerator.kind, f"a device of the kind {accelerator.name!r}")
        return Choice("refused", f"{made} is untested, and operations that training needs may be missing there")
    if not _is_compiled_for(accelerator, torch):
        capability = "{}.{}".format(*accelerator.capability or (0, 0))
        return Choice("refused", f"{torch}, has no kernels for {accelerator.name} (compute capability {capability})")
    return Choice("used", "CUDA is what this package is written for")


def refuse_unusable(machine: Machine, *, on_processor: str) -> None:
    """Refuse to ignore an accelerator silently.

    Args:
        machine: What was found.
        on_processor: The option that runs on the CPU all the same, such as ``--use_cpu true``.

    Raises:
        MachineError: The machine has an accelerator that this torch cannot use, or that is untested.
    """
    if not machine.accelerators and machine.shown:
        raise MachineError(_word_unused(machine, on_processor))
    for accelerator in machine.accelerators:
        found = support_of(accelerator, machine.torch)
        if found.value == "refused":
            expected, ways = "an NVIDIA GPU", [f"{on_processor} runs on the CPU"]
            if accelerator.kind == "cuda":
                expected, ways = "one that has them", [install_build(_release(machine.torch), OLDEST_BUILD), *ways]
            raise MachineError(f"machine: found that {found.reason}, expected {expected}\n  fix: {'; or '.join(ways)}")


def describe_untested(machine: Machine) -> list[str]:
    """Return a notice for each device that is used though untested."""
    found = (support_of(accelerator, machine.torch) for accelerator in machine.accelerators[:1])
    return [f"machine: {each.reason}: please report how it goes" for each in found if each.value == "untested"]


def _is_compiled_for(accelerator: Accelerator, torch: TorchBuild) -> bool:
    """Return whether torch has kernels for the card's generation, or code that its driver compiles."""
    compiled = [each for text in torch.architectures if (each := _ARCHITECTURE.fullmatch(text))]
    capability = accelerator.capability
    return capability is None or not compiled or any(_runs(each, capability) for each in compiled)


def _runs(compiled: re.Match[str], capability: tuple[int, int]) -> bool:
    made_for = int(compiled["major"]), int(compiled["minor"])
    if compiled["exact"] == "a":
        return made_for == capability
    return made_for <= capability and (compiled["kind"] == "compute" or made_for[0] == capability[0])


def _word_unused(machine: Machine, on_processor: str) -> str:
    device, count = machine.shown[0], len(machine.shown)
    expected, ways = "an NVIDIA GPU: nothing else is tested", []
    driver = ""
    if device == "NVIDIA GPU":
        driver = f" (driver {machine.driver})" if machine.driver else ""
        expected, ways = _expect(machine), list(_find_ways(machine))
    said = f" ({machine.complaint})" if machine.complaint else ""
    ways.append(f"{on_processor} runs on the CPU")
    return (
        f"machine: found {counted(count, device)}{driver} that {machine.torch}, cannot use{said}, "
        f"expected {expected}\n  fix: {'; or '.join(ways)}"
    )


def _expect(machine: Machine) -> str:
    if machine.torch.platform != "CUDA":
        return "a torch built for CUDA"
    return f"a working driver of version {_driver_needed(machine.torch)} or later"


def _find_ways(machine: Machine) -> Iterator[str]:
    has = int(machine.driver.partition(".")[0]) if machine.driver else None
    release, fitting = _release(machine.torch), fitting_build(machine.driver)
    if machine.torch.platform != "CUDA":
        yield install_build(release, fitting or OLDEST_BUILD)
        return
    needed = _driver_needed(machine.torch)
    if has is not None and has >= needed:
        yield "repair what `nvidia-smi` reports (a container needs --gpus all)"
        return
    yield f"update the driver{' (`nvidia-smi` shows its version)' if has is None else ''}"
    if fitting or has is None:
        yield f"install a torch for an older driver: {install_build(release, OLDEST_BUILD)}"


def _driver_needed(torch: TorchBuild) -> int:
    major = torch.platform_version.partition(".")[0]
    return next((driver for build, driver in DRIVERS.items() if build.startswith(f"cu{major}")), max(DRIVERS.values()))


def _release(torch: TorchBuild) -> str:
    return torch.version.partition("+")[0]
