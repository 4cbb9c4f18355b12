"""Describes a machine, as far as choices depend on it. It inspects nothing; ``inspection`` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Accelerator", "Choice", "Kind", "Machine", "Tool", "TorchBuild"]

Kind = Literal["cuda", "rocm", "mps", "npu", "other"]
"""``cuda`` is NVIDIA's, ``rocm`` AMD's under the same name in torch, ``mps`` Apple's, ``npu`` Huawei's Ascend."""

Tool = Literal["C compiler", "C++ compiler", "Python.h", "ninja", "nvcc"]
"""Names of the build tools."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """Describes one device, other than the CPU, that torch can use."""

    name: str
    """Name as its driver gives it, such as ``NVIDIA H200`` or ``NVIDIA A100-SXM4-40GB MIG 3g.20gb``."""
    kind: Kind
    memory_bytes: int | None = None
    """Total bytes; None where torch does not say."""
    capability: tuple[int, int] | None = None
    """CUDA's compute capability; None on every other kind."""

    @property
    def is_slice(self) -> bool:
        """Return whether the device is a slice of a card (MIG), which the driver writes into its name."""
        return " MIG " in self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchBuild:
    """Describes the torch of this process."""

    version: str
    """Version, such as ``2.13.0+cu130``."""
    platform: Literal["CUDA", "ROCm", "no GPU"]
    platform_version: str = ""
    """Version of CUDA or ROCm, such as ``13.0``; empty in a build for CPUs."""
    architectures: tuple[str, ...] = ()
    """Targets of its CUDA kernels, such as ``sm_90``; empty where it does not say."""

    def __str__(self) -> str:
        return f"torch {self.version}, built for {f'{self.platform} {self.platform_version}'.strip()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Describes the machine as this process sees it, with the processes of the run."""

    torch: TorchBuild
    accelerators: tuple[Accelerator, ...] = ()
    """Devices that torch says it can use, in its order."""
    shown: tuple[str, ...] = ()
    """Makers and kinds of the devices that the system shows, usable by torch or not: one entry each, such as
    ``NVIDIA GPU``. Devices that were hidden on purpose (``CUDA_VISIBLE_DEVICES=``) are left out."""
    driver: str | None = None
    """Version of NVIDIA's driver, such as ``550.54.15``; None where the system does not say."""
    complaint: str | None = None
    """Torch's message when it was asked for a GPU; None if it gave none."""
    num_cores: int = 1
    """CPU cores that this process may use, within the limits of its container."""
    ram_bytes: int = 0
    """Memory of the machine, within the limits of its container."""
    shared_bytes: int | None = None
    """Free bytes in ``/dev/shm``, through which data workers hand over batches; None if there is no such place."""
    tools: frozenset[Tool] = frozenset()
    """Build tools that the machine has."""
    num_processes: int = 1
    """Processes of the run on all machines, from the launcher."""
    num_local_processes: int = 1
    """Processes of the run on this machine."""


@dataclass(frozen=True, slots=True)
class Choice(Generic[_Value]):
    """Holds a decision and its reason."""

    value: _Value
    reason: str
    """Clause that follows ``because``."""
