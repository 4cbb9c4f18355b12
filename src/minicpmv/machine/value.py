"""States what a machine is, as far as anything is chosen by it. It deliberately asks nobody; ``inspection`` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Accelerator", "Choice", "Kind"]

Kind = Literal["cuda", "rocm", "mps", "npu", "other"]
"""``cuda`` is NVIDIA's, ``rocm`` AMD's under the same name in torch, ``mps`` Apple's, ``npu`` Huawei's Ascend."""

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


@dataclass(frozen=True, slots=True)
class Choice(Generic[_Value]):
    """A decision, and why it is that."""

    value: _Value
    reason: str
    """Half a sentence that stands behind ``because``."""
