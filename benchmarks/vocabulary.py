"""Peak memory with a vocabulary of 128,256 words, as in MiniCPM-Llama3-V-2.5, beside the plain way.

    python -m benchmarks vocabulary

Logits of every position, in bfloat16, once more in float32 and with their gradient, are what the plain way needs most
memory for.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models import make_model
from benchmarks.records import make_records
from benchmarks.training import run_command, run_plain

__all__ = ["measure"]

_SMALL = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}


def measure(*, repetitions: int) -> dict[str, Any]:
    """Train a small language model with a large vocabulary in full; return peak memory, GiB, and the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        sizes: dict[str, Any] = {**_SMALL, "num_key_value_heads": 4, "vocab_size": 128_256}
        model = make_model(Path(folder, "model"), vision={"num_hidden_layers": 2}, **sizes)
        data = make_records(Path(folder, "data"), 16, slices=(1, 3))
        ours = [run_command(model, data, "full", steps=4).memory_gib for _ in range(repetitions)]
        plain = [run_plain(model, data, "full", "--records", "8")["memory_gib"] for _ in range(repetitions)]
    return {"memory_gib": max(ours), "plain_memory_gib": max(plain), "memory_ratio": max(ours) / max(plain)}
