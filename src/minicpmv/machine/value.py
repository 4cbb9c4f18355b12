"""States what a machine is, as far as anything is chosen by it. It deliberately asks nobody; ``inspection`` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Accelerator", "Choice", "Kind", "Machine", "Tool", "TorchBuild"]

Kind = Literal["cuda", "rocm", "mps", "npu", "other"]
"""``cuda`` is NVIDIA's, ``rocm`` AMD's under the same name in torch, ``mps`` Apple's, ``npu`` Huawei's Ascend."""

Tool = Literal["C compiler", "C++ compiler", "Python.h", "ninja", "nvcc"]
"""What some things are compiled with."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One device that torch can use beside the processor."""

    name: str
    """As its driver gives it, such as ``NVIDIA H200`` or ``NVIDIA A100-SXM4-40GB MIG 3g.20gb``."""
    kind: Kind
    memory_bytes: int | None = None
    """All of it; None where torch does not say."""
    capability: tuple[int, int] | None = None
    """CUDA's compute capability; None on every other kind."""

    @property
    def is_slice(self) -> bool:
        """Whether it is a part of a card (MIG), which the driver writes into its name."""
        return " MIG " in self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchBuild:
    """The torch of this process."""

    version: str
    """Such as ``2.13.0+cu130``."""
    platform: Literal["CUDA", "ROCm", "no GPU"]
    platform_version: str = ""
    """Such as ``13.0``; empty where it is built for no GPU."""
    architectures: tuple[str, ...] = ()
    """What its CUDA kernels are compiled for, such as ``sm_90``; empty where it does not say."""

    def __str__(self) -> str:
        return f"torch {self.version}, built for {f'{self.platform} {self.platform_version}'.strip()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine, as this process sees it, with what runs on it together."""

    torch: TorchBuild
    accelerators: tuple[Accelerator, ...] = ()
    """Those that torch says it can use, in its order."""
    shown: tuple[str, ...] = ()
    """Makers and kinds of what the system shows, whether torch can use it or not, such as ``NVIDIA GPU``: one entry for
    each device. What was hidden on purpose (``CUDA_VISIBLE_DEVICES=``) is not there."""
    driver: str | None = None
    """Version of NVIDIA's driver, such as ``550.54.15``; None where the system does not say."""
    complaint: str | None = None
    """What torch said when it was asked for a GPU; None: nothing."""
    num_cores: int = 1
    """Those that this process may use, within the limits of its container."""
    ram_bytes: int = 0
    """Of the machine, within the limits of its container."""
    shared_bytes: int | None = None
    """Free in ``/dev/shm``, through which data workers hand batches over; None: there is no such place."""
    tools: frozenset[Tool] = frozenset()
    """Those that it has."""
    num_processes: int = 1
    """Of the run, on all machines, as the launcher says it."""
    num_local_processes: int = 1
    """Of the run, on this machine."""


@dataclass(frozen=True, slots=True)
class Choice(Generic[_Value]):
    """A decision, and why it is that."""

    value: _Value
    reason: str
    """Half a sentence that stands behind ``because``."""
