"""What ``--vision_cache`` saves: LoRA on a frozen tower whose features are computed, stored, and read.

    python -m benchmarks frozen_tower

Every picture has ten slices, and the tower's share of a step's operations is MiniCPM-V-2's. The training command runs
in turns without the cache, with an empty one, and with the one that was just filled: a second epoch. On a CPU attention
takes more time than its operations say, so the ratio of times may exceed that of operations.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model

from benchmarks.models import make_model
from benchmarks.records import make_records
from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.networks.flops import Work, flops_of_each, total_flops
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.row import DEFAULT_LORA_TARGET
from minicpmv.training.monitoring.throughput import count_work

__all__ = ["measure"]

_RECORDS = 6
_TOWER = {"hidden_size": 384, "intermediate_size": 1664, "num_hidden_layers": 12, "num_attention_heads": 6}
"""Beside the usual language model of 768 x 12."""
_QUERIES = 64
_RANK = 64
_FLAGS = (
    f"--use_lora true --lora_r {_RANK} --tune_vision false --bf16 true --packing false --max_steps {_RECORDS} "
    f"--logging_steps {_RECORDS // 2} --learning_rate 1e-4 --save_strategy no --report_to none --verify_saved false "
    "--model_max_length 4096 --dataloader_num_workers 1 --gradient_accumulation_steps 1 "
    "--activation_checkpointing false"
)


def tower_share(model: Path, data: str) -> float:
    """Find the tower's part of the operations of a step, resampler and embeddings trained."""
    bare: Any = MiniCPMVForConditionalGeneration.from_pretrained(model)
    beside = ["resampler", "embed_tokens"]
    lora = LoraConfig(r=_RANK, target_modules=DEFAULT_LORA_TARGET, modules_to_save=beside, task_type="CAUSAL_LM")
    wrapped = get_peft_model(bare, lora)
    dataset = ConversationDataset(load_records(data), MiniCPMVProcessor.from_pretrained(model), max_length=4096)
    work = count_work(Collator(0)([dataset[0]])["layout"])
    each = flops_of_each(bare.config, wrapped.named_parameters(remove_duplicate=False))
    tower = Work(patches=work.patches, patch_pairs=work.patch_pairs)
    return total_flops(each, tower) / total_flops(each, work)


def samples_per_second(model: Path, data: str, *more: str) -> float:
    """Train for an epoch, and read the command's own figure; the first half of the steps warms up."""
    with tempfile.TemporaryDirectory() as output:
        words = ["--model_name_or_path", str(model), "--data_path", data, "--output_dir", output, *_FLAGS.split()]
        run = [sys.executable, "-m", "minicpmv.training", *words, *more]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        log = json.loads(Path(output, "run.json").read_text(encoding="utf-8"))["log"]
    return [entry["samples_per_second"] for entry in log if "samples_per_second" in entry][-1]


def measure(*, repetitions: int) -> dict[str, Any]:
    """Train in the three ways in turns; return samples per second and ratios to computing, medians over the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder, "model"), num_queries=_QUERIES, vision=_TOWER)
        data = make_records(Path(folder, "data"), _RECORDS, slices=(10,), words=(50, 90))
        cache = Path(folder, "cache")
        share = tower_share(model, data)
        rounds: list[dict[str, float]] = []
        for number in range(1, repetitions + 1):
            shutil.rmtree(cache, ignore_errors=True)
            computed = samples_per_second(model, data)
            stored, read = (samples_per_second(model, data, "--vision_cache", str(cache)) for _ in range(2))
            rounds.append(
                {
                    "computed_samples_per_second": computed,
                    "stored_samples_per_second": stored,
                    "read_samples_per_second": read,
                    "stored_times_faster": stored / computed,
                    "read_times_faster": read / computed,
                }
            )
            print(f"  {number}: " + ", ".join(f"{name} {value:.3g}" for name, value in rounds[-1].items()), flush=True)
        size = sum(path.stat().st_size for path in cache.rglob("*.safetensors"))
    figures = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    figures |= {
        "tower_share": share,
        "times_faster_by_operations": 1 / (1 - share),
        "mb_per_image": size / _RECORDS / 1e6,
    }
    return figures | {"rounds": rounds}
