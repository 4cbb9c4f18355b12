"""Lists cards' memory, peak throughput and compute capability as published by their makers, each written only here."""

from __future__ import annotations

from typing import NamedTuple

from minicpmv.machine.value import Accelerator

__all__ = ["CARDS", "Card"]


class Card(NamedTuple):
    """Holds the figures of one GPU, or of this machine's CPU."""

    name: str
    memory_gib: float | None
    """Holds the memory that a program finds, which is less than what is sold."""
    half_tflops: float | None = None
    """Dense matrix products in bfloat16 with float32 sums; float16 where there is no bfloat16."""
    float32_tflops: float | None = None
    capability: tuple[int, int] = (8, 0)
    """CUDA compute capability; the default assumes a card of 2020 or later."""

    def as_accelerator(self) -> Accelerator:
        """Return the card as an accelerator of a machine."""
        memory = None if self.memory_gib is None else round(self.memory_gib * 2**30)
        return Accelerator(name=self.name, kind="cuda", memory_bytes=memory, capability=self.capability)


# Peaks: dense, half of what is stated "with sparsity"; of the SXM form where there are several. Consumer cards:
# with float32 sums, which is half of what is advertised. Capabilities: https://developer.nvidia.com/cuda-gpus.
# Memory: what torch reports of the card in published logs ("total capacity of ..."); drivers differ by 1 %.
# Checked on 2026-11-29 against tables that cite these documents; the documents themselves were not read again.
CARDS = {
    card.name: card
    for card in (
        # T4 data sheet (2019): 8.1 single, 65 mixed precision; 16 GB, of which ECC takes a part
        Card("t4", 14.6, 65, 8.1, (7, 5)),
        # V100 data sheet (2020), SXM2: 15.7 single, 125 deep learning; 16 or 32 GB
        Card("v100", 15.8, 125, 15.7, (7, 0)),
        Card("v100-32g", 31.7, 125, 15.7, (7, 0)),
        # Ampere GA102 white paper (2021): 35.6 FP32, 71 BF16 with FP32 accumulate; 24 GB
        Card("3090", 23.7, 71, 35.6, (8, 6)),
        # Ada white paper (2023): 82.6 FP32, 165.2 BF16 with FP32 accumulate; 24 GB
        Card("4090", 23.6, 165, 82.6, (8, 9)),
        # L4 data sheet (2023): 30.3 FP32, 242 BF16 with sparsity; 24 GB
        Card("l4", 22, 121, 30.3, (8, 9)),
        # A10 data sheet (2021): 31.2 FP32, 125 BF16; 24 GB
        Card("a10", 22, 125, 31.2, (8, 6)),
        # RTX A6000 data sheet (2021): 38.7 single, 309.7 tensor with sparsity; 48 GB
        Card("a6000", 47.5, 155, 38.7, (8, 6)),
        # L40S data sheet (2023): 91.6 FP32, 362.05 BF16; 48 GB
        Card("l40s", 44.4, 362, 91.6, (8, 9)),
        # A100 data sheet (2021): 19.5 FP32, 312 BF16; 40 or 80 GB
        Card("a100", 39.4, 312, 19.5, (8, 0)),
        Card("a100-80g", 79.1, 312, 19.5, (8, 0)),
        # H100 data sheet (2023), SXM5: 67 FP32, 1,979 BF16 with sparsity; 80 GB
        Card("h100", 79.1, 989, 67, (9, 0)),
        # H200 data sheet (2024), SXM: 67 FP32, 1,979 BF16 with sparsity; 141 GB
        Card("h200", 139.8, 989, 67, (9, 0)),
    )
}
