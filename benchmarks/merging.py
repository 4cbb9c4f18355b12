"""What merging an adapter takes: memory and time of ``minicpmv merge``, beside the plain way with PEFT.

    python -m benchmarks merging

The model has a billion parameters, random and written tensor by tensor, in bfloat16 files of half a gigabyte; the
adapter is LoRA on all linear layers of its language model. Both ways run in processes of their own, without comparing
the result with base and adapter. *over imports* is the peak less what the process held before it began.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.models import write_small_files
from minicpmv.export.merging.shards import num_bytes, write_shards
from minicpmv.models.checkpoints.key_names import released_shapes
from minicpmv.models.skeleton import build_skeleton
from minicpmv.releases.table import VERSIONS
from minicpmv.training.learning.targets import resolve_target

__all__ = ["measure"]

_SHARD = "500MB"
_SIZES: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "query_num": 64,
    "vision_config": {
        "image_size": 980,
        "patch_size": 14,
        "model_type": "siglip",
        "hidden_size": 384,
        "intermediate_size": 1664,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    },
}
_RANK = 64

_MERGE = """
import resource, sys, torch, transformers, peft
from minicpmv.cli.main import main
import minicpmv.export.merging.merge
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(["merge", *sys.argv[1:3], "--no-verify", "--max-shard-size", sys.argv[3], *sys.argv[4:]]) == 0
print(held, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
_PLAIN = """
import resource, sys, torch, transformers, peft
from minicpmv.inference.loading import load_model
dtype = torch.float32 if "float32" in sys.argv else torch.bfloat16
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merged = load_model(sys.argv[1], dtype=dtype).model.merge_and_unload()
merged.to(torch.bfloat16).save_pretrained(sys.argv[2], max_shard_size=sys.argv[3])
print(held, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(*, repetitions: int) -> dict[str, Any]:
    """Merge in turns, and return medians: seconds, and peaks of memory in megabytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        largest, total = _make_base(folder / "base")
        _make_adapter(folder / "base", folder / "adapter")
        figures: dict[str, Any] = {"model": total / 1e6, "largest tensor in float32": 2 * largest / 1e6}
        ways = {"minicpmv merge": [_MERGE], "plain, bfloat16": [_PLAIN], "plain, float32": [_PLAIN, "float32"]}
        measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for number in range(repetitions):
            for way, (code, *options) in ways.items():
                output = folder / f"{number}-{len(measured[way])}-{way}"
                measured[way].append(_run(code, folder / "adapter", output, options))
                for file in output.iterdir():
                    file.unlink()
        for way, rounds in measured.items():
            figures[way] = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return figures


def _make_base(folder: Path) -> tuple[int, int]:
    """Write a model, and return the bytes of its largest tensor and of all."""
    write_small_files(folder, "v2_6", _SIZES)
    shapes = released_shapes(build_skeleton(folder))
    outlines = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}
    torch.manual_seed(0)

    def compute(name: str) -> Tensor:
        return torch.empty(shapes[name], dtype=torch.bfloat16).uniform_(-0.02, 0.02)

    write_shards(folder, outlines, compute, max_shard_size=_SHARD)
    return max(num_bytes([outline]) for outline in outlines.values()), num_bytes(list(outlines.values()))


def _make_adapter(base: Path, folder: Path) -> None:
    folder.mkdir()
    target = resolve_target("all-linear", VERSIONS["2.6"].network)
    config = LoraConfig(r=_RANK, target_modules=target, task_type="CAUSAL_LM")
    names = get_peft_model_state_dict(get_peft_model(build_skeleton(base), config))
    tensors = {name: 0.02 * torch.randn(outline.shape) for name, outline in names.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config.base_model_name_or_path = str(base)
    config.save_pretrained(str(folder))


def _run(code: str, adapter: Path, output: Path, options: list[str]) -> dict[str, float]:
    started = time.perf_counter()
    # The precision of the plain way is that in which it merges; ours merges in float32 and writes the base's.
    command = [sys.executable, "-W", "ignore", "-c", code, str(adapter), str(output), _SHARD, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    held, peak = (int(number) * 1024 / 1e6 for number in done.stdout.splitlines()[-1].split())
    return {"seconds": time.perf_counter() - started, "peak": peak, "over imports": peak - held}


if __name__ == "__main__":
    print(json.dumps(measure(repetitions=1), indent=1))
