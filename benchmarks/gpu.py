"""Training and answering at released sizes on one GPU, with random weights and without a network.

    python -m benchmarks.gpu --release 2.5 --output gpu.json

LoRA and full training by the training command, with packed rows of 4,096 and 8,192 tokens: tokens per second, useful
FLOP/s beside the peak of bfloat16 matrix products measured just before, peak memory by part as ``minicpmv train
--dry_run`` has it. Then greedy answers to a batch of questions. A combination that does not fit is reported as such.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import make_checkpoint, make_model
from benchmarks.peak import measure_peak
from benchmarks.records import make_records
from minicpmv.inference.loading import load_model
from minicpmv.models.answers import generate_answers
from tests.released_sizes import RELEASED

__all__ = ["main"]

_FIXTURES = {"2.0": "v2", "2.5": "v2_5", "2.6": "v2_6", "4.5": "v4_5"}
_METHODS = {
    "lora": ["--use_lora", "true", "--activation_checkpointing", "true"],
    "lora, tower frozen": ["--use_lora", "true", "--tune_vision", "false", "--activation_checkpointing", "true"],
    "lora, nothing recomputed": ["--use_lora", "true"],
    # DeepSpeed of one process keeps bfloat16 weights and float32 masters; 8-bit states make it fit on one GPU.
    "full": ["--deepspeed", "zero2", "--optim", "adamw_bnb_8bit", "--activation_checkpointing", "true"],
}
_STEPS = 8


def measure_training(model: Path, data: str, method: str, length: int) -> dict[str, Any]:
    """Train eight steps; the last four are measured."""
    with tempfile.TemporaryDirectory() as output:
        flags = f"--max_steps {_STEPS} --logging_steps {_STEPS // 2} --save_strategy no --prove_saved false"
        words = ["--model_name_or_path", str(model), "--data_path", data, "--output_dir", output, *flags.split()]
        words += ["--report_to", "none", "--bf16", "true", "--dataloader_num_workers", "4"]
        words += ["--pack_length", str(length), "--model_max_length", str(min(length, 4096)), *_METHODS[method]]
        command = [sys.executable, "-m", "minicpmv.training", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"fault": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
        run = json.loads(Path(output, "run.json").read_text(encoding="utf-8"))
    last = [entry for entry in run["log"] if "tokens_per_second" in entry][-1]
    names = ("tokens_per_second", "samples_per_second", "tflops_per_second", "memory_gib")
    return {name: last[name] for name in names}


def measure_answers(model: Path, *, rows: int, num_tokens: int) -> dict[str, float]:
    """Let a model answer so many rows of text at once, and return tokens per second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded: Any = load_model(model, device=device, dtype=torch.bfloat16).model
    ids = torch.randint(0, 256, (rows, 256), device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {"do_sample": False, "min_new_tokens": num_tokens, "max_new_tokens": num_tokens}
    generate_answers(loaded, inputs, options=options | {"max_new_tokens": 8, "min_new_tokens": 8}, end_ids=[])
    started = time.perf_counter()
    generate_answers(loaded, inputs, options=options, end_ids=[])
    return {"answer_tokens_per_second": rows * num_tokens / (time.perf_counter() - started)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--release", choices=[*_FIXTURES, "small"], default="2.5", help="small: to try this program")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192], help="tokens of a packed row")
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS))
    parser.add_argument("--output", type=Path, help="also write everything there, as JSON")
    asked = parser.parse_args(arguments)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    results: dict[str, Any] = {"device": device, "torch": torch.__version__, "release": asked.release}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.release == "small":
            model = make_model(folder / "model", hidden_size=256, intermediate_size=512, num_hidden_layers=2)
        else:
            model = make_checkpoint(folder / "model", _FIXTURES[asked.release], RELEASED[asked.release])
        data = make_records(folder / "data", 256, num_pictures=32)
        for method in asked.methods:
            for length in asked.lengths:
                peak = measure_peak() / 1e12
                found = measure_training(model, data, method, length)
                if "fault" not in found:
                    found |= {"peak_tflops": peak, "share_of_peak": found["tflops_per_second"] / peak}
                results[f"{method}, rows of {length}"] = found
                print(f"{method}, rows of {length}: {found}", flush=True)
        results["answers"] = measure_answers(model, rows=16, num_tokens=64)
        print(f"answers: {results['answers']}")
    if asked.output is not None:
        asked.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
