"""Lists cards' memory, peak throughput and compute capability as published by their makers, each written only here."""

from __future__ import annotations

from typing import NamedTuple

from minicpmv.machine.value import Accelerator

__all__ = ["CARDS", "Card"]


class Card(NamedTuple):
    """Holds the figures of one GPU, or of this machine's CPU."""

    name: str
    memory_gib: float | None
    half_tflops: float | None = None
    """Dense matrix products in bfloat16 with float32 sums; float16 where there is no bfloat16."""
    float32_tflops: float | None = None
    capability: tuple[int, int] = (8, 0)
    """CUDA compute capability; the default assumes a card of 2020 or later."""

    def as_accelerator(self) -> Accelerator:
        """Return the card as an accelerator of a machine."""
        memory = None if self.memory_gib is None else round(self.memory_gib * 2**30)
        return Accelerator(name=self.name, kind="cuda", memory_bytes=memory, capability=self.capability)


# Source: NVIDIA's data sheets and architecture white papers, dense figures; of the server cards the SXM form unless the
# name says otherwise. Consumer cards: with float32 sums, which is half of what is advertised.
# Checked on 2026-11-29: capabilities from 8.6 on in https://developer.nvidia.com/cuda-gpus, V100's on its page of
# legacy GPUs; L40S's peaks in copies of its data sheet (362.05, 91.6); memory that CUDA shows of a T4 (15,102 MiB)
# and of an A100-PCIE-40GB (40,339 MiB). For the other figures no page was found again.
CARDS = {
    card.name: card
    for card in (
        Card("t4", 14.7, 65, 8.1, (7, 5)),
        Card("v100", 16, 125, 15.7, (7, 0)),
        Card("v100-32g", 32, 125, 15.7, (7, 0)),
        Card("3090", 24, 71, 35.6, (8, 6)),
        Card("4090", 24, 165, 82.6, (8, 9)),
        Card("l4", 22.5, 121, 30.3, (8, 9)),
        Card("a10", 22.5, 125, 31.2, (8, 6)),
        Card("a6000", 48, 155, 38.7, (8, 6)),
        Card("l40s", 45, 362, 91.6, (8, 9)),
        Card("a100", 39.4, 312, 19.5, (8, 0)),
        Card("a100-80g", 80, 312, 19.5, (8, 0)),
        Card("h100", 80, 989, 67, (9, 0)),
        Card("h200", 140, 989, 67, (9, 0)),
    )
}
