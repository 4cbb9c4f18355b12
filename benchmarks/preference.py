"""A step of preference training (DPO): compared with TRL's DPOTrainer on the same model, pairs and thread.

    sh scripts/engines.sh       # once: TRL has an environment of its own
    python -m benchmarks preference

Pictures have ten slices. Each way runs in a process of its own, in turns, in float32, without gradient checkpointing.
Batches are made before and not timed: our processor refuses TRL's own collator, and that of the tests is an example.
TRL computes its reference in every step, with a second model in full training and without the adapter in LoRA, and its
head in chunks, as it does by default. Ours reads a stored reference, as by default; LoRA is also measured with a
reference computed in every step. Where a machine has other work to do, processor time is the steadier measure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from benchmarks.models import make_model
from benchmarks.records import WORDS, make_records
from minicpmv.data.samples.collation import PackedCollator
from minicpmv.data.samples.compared import Comparison
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.losses.batch import PreferenceLoss
from minicpmv.losses.mixture import parse_mixture
from minicpmv.losses.preference import How
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.launching.cpu_process import keep_freed_memory
from minicpmv.training.objectives.objective import log_probs_of
from minicpmv.training.objectives.preference import Preference

__all__ = ["make_pairs", "measure", "run_ours", "run_trl"]

_ROOT = Path(__file__).parents[1]
_TRL = _ROOT / ".engines" / "trl" / "bin" / "python"
_WAYS = {"full": ("trl", "ours"), "lora": ("trl", "ours", "ours_computed_reference")}
_PAIRS, _STEPS = 1, 2
"""Pairs of a step; steps that are timed, after one to warm up."""
_LANGUAGE = {
    "hidden_size": 384,
    "intermediate_size": 1344,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
_VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2}
"""With ten slices the tower costs a third to a half of what the language model does, as in 2.6."""
_WORDS_OF_EACH = 30
"""About three tokens each: answers of 90 tokens."""

Batch = dict[str, Any]
Loss = Callable[[Batch], torch.Tensor]


def make_pairs(folder: Path, number: int, *, slices: int = 10) -> Path:
    """Write records with a picture, a question and two answers of about equal length, and return the data file."""
    words = _WORDS_OF_EACH * 5 // 2  # two fifths are the answer
    lines = Path(make_records(folder, number, slices=(slices,), words=(words, words))).read_text(encoding="utf-8")
    records = [json.loads(line) for line in lines.splitlines()]
    rng = np.random.default_rng(1)
    for record in records:
        record["rejected"] = " ".join(rng.choice(WORDS, _WORDS_OF_EACH).tolist())
    data = folder / "pairs.json"
    data.write_text(json.dumps(records), encoding="utf-8")
    return data


def _adapter() -> LoraConfig:
    return LoraConfig(r=64, lora_alpha=64, target_modules=r"llm\..*self_attn\.(q_proj|k_proj|v_proj|o_proj)")


def _load(folder: Path) -> tuple[Any, MiniCPMVProcessor]:
    model = MiniCPMVForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    return model, MiniCPMVProcessor.from_pretrained(folder / "model")


def run_ours(folder: Path, method: str, *, is_stored: bool) -> dict[str, float]:
    """Measure a step of this package: both answers behind one question, in one packed row.

    Args:
        folder: With ``model`` and ``pairs.json``.
        method: ``full`` or ``lora``.
        is_stored: Whether the reference's values come with the batch; else the adapter is switched off in each step.
    """
    model, processor = _load(folder)
    if method == "lora":
        model = get_peft_model(model, _adapter())
    records = load_records(folder / "pairs.json")
    dataset = ConversationDataset(records, processor, max_length=8192, comparison=Comparison(kind="pair"))
    objective = Preference(
        PreferenceLoss(mixture=parse_mixture("sigmoid", flag="--preference_loss"), how=How(beta=0.1))
    )

    def make_batch(places: range) -> Batch:
        return PackedCollator(0, compares=True)([dataset[place] for place in places])

    def add_reference(batch: Batch) -> None:
        with torch.no_grad(), model.disable_adapter() if method == "lora" else nullcontext():
            batch["reference_log_probs"] = log_probs_of(model, batch)

    def loss_of(batch: Batch) -> torch.Tensor:
        if not is_stored:
            add_reference(batch)
        return objective.loss(model, batch, objective.count([batch["layout"]]))

    return _time(model, make_batch, loss_of, add_reference if is_stored else None, passes=1 if is_stored else 2)


def run_trl(folder: Path, method: str) -> dict[str, float]:
    """Measure a step of TRL's DPOTrainer, in an environment that has it; as for :func:`run_ours`."""
    from datasets import Dataset  # noqa: PLC0415  # pyright: ignore[reportMissingImports]  only where TRL is
    from trl import DPOConfig, DPOTrainer  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    from tests.engines.drive_trl import collate_pairs, read_pairs  # noqa: PLC0415

    model, processor = _load(folder)
    records = Dataset.from_dict(read_pairs(folder / "pairs.json"))
    settings: dict[str, Any] = {"report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    with tempfile.TemporaryDirectory() as output:
        trainer: Any = DPOTrainer(
            model=model,
            ref_model=_load(folder)[0] if method == "full" else None,
            args=DPOConfig(output, beta=0.1, max_length=None, remove_unused_columns=False, **settings),
            train_dataset=records,
            processing_class=processor,
            data_collator=lambda records: collate_pairs(processor, records),
            peft_config=_adapter() if method == "lora" else None,
        )

    def make_batch(places: range) -> Batch:
        return collate_pairs(processor, [records[place] for place in places])

    return _time(
        trainer.model,
        make_batch,
        lambda batch: trainer.compute_loss(trainer.model, batch),
        None,
        passes=2,
    )


def _time(
    model: Any,
    make_batch: Callable[[range], Batch],
    loss_of: Loss,
    prepare: Callable[[Batch], None] | None,
    *,
    passes: int,
) -> dict[str, float]:
    """Take steps with AdamW; return medians of the timed ones, and what passes through the models in each.

    Args:
        model: What learns.
        make_batch: Makes the batch of records.
        loss_of: Computes its loss.
        prepare: Called with each batch before the first step, and not timed.
        passes: Forward passes of a step.
    """
    model.train()
    batches = [make_batch(range(start, start + _PAIRS)) for start in range(0, _PAIRS * (1 + _STEPS), _PAIRS)]
    if prepare is not None:
        for batch in batches:
            prepare(batch)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-7, fused=True)
    spent: list[tuple[float, float]] = []
    losses: list[float] = []
    for batch in batches:
        wall, own = time.perf_counter(), time.process_time()
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        spent.append((time.perf_counter() - wall, time.process_time() - own))
        losses.append(loss.item())
    timed = spent[1:]
    return {
        "seconds": statistics.median(wall for wall, _ in timed),
        "processor_seconds": statistics.median(own for _, own in timed),
        "tokens": passes * statistics.fmean(batch["input_ids"].numel() for batch in batches[1:]),
        "patches": passes * statistics.fmean(len(batch["pixel_values"]) for batch in batches[1:]),
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "first_loss": losses[0],
    }


def measure(*, repetitions: int) -> dict[str, Any]:
    """Let all ways take turns; return medians, and how many times TRL's step is ours.

    Raises:
        SystemExit: TRL's environment is missing.
    """
    if not _TRL.is_file():
        raise SystemExit(f"found no {_TRL}, expected TRL's environment\n  fix: sh scripts/engines.sh")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", num_queries=64, vision=_VISION, **_LANGUAGE)
        make_pairs(folder, _PAIRS * (1 + _STEPS))
        return {method: _compare(folder, method, ways, repetitions) for method, ways in _WAYS.items()}


def _compare(folder: Path, method: str, ways: tuple[str, ...], repetitions: int) -> dict[str, Any]:
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(1, repetitions + 1):
        rounds.append({way: _run(folder, method, way) for way in ways})
        told = ", ".join(f"{way} {figures['processor_seconds']:.3g} s" for way, figures in rounds[-1].items())
        print(f"  {method} {number}: {told}", flush=True)
    found: dict[str, Any] = {
        way: {name: statistics.median(each[way][name] for each in rounds) for name in rounds[0][way]} for way in ways
    }
    for way in ways[1:]:
        for name in ("processor_seconds", "seconds", "tokens", "patches"):
            ratios = [each["trl"][name] / each[way][name] for each in rounds]
            found[f"trl_by_{way}_{name}"] = statistics.median(ratios)
    return found | {"rounds": rounds}


def _run(folder: Path, method: str, way: str) -> dict[str, float]:
    command = [str(_TRL), "-m", "benchmarks.preference", str(folder), method, way]
    paths = os.pathsep.join([str(_ROOT), str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=variables, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure one way in this process, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("method", choices=list(_WAYS))
    parser.add_argument("way", choices=["trl", "ours", "ours_computed_reference"])
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if asked.way == "trl":
        figures = run_trl(asked.folder, asked.method)
    else:
        figures = run_ours(asked.folder, asked.method, is_stored=asked.way == "ours")
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(main())
