"""``python -m benchmarks``: named measurements, as a table and as JSON.

Each makes its own models and data, and compares within one process tree. Machines are noisy: trust ratios, which are
taken within a round, and medians over the rounds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

CASES = {
    "training": "samples per second, FLOP/s and memory of training, beside the plain way",
    "vocabulary": "memory with a vocabulary of 128,256 words, beside the plain way",
    "images": "from files to patch rows on one core, beside decoding and the plain way",
    "films": "from film files to pictures on one core, compared with decoding alone",
    "frozen_tower": "a second epoch that reads a frozen tower's features, beside one that computes them",
    "gains": "a training step as it is, and with one gain at a time switched off",
    "lora": "a step of LoRA, compared with one of full training on the same row",
    "memory": "peak memory of whole training runs, compared with what the estimate says",
    "cards": "what fits on which card, as the estimate says: computed, not measured",
    "guides": "what training gives, by records, settings and negatives: 22 minutes of one core for each repetition",
    "merging": "memory and time of merging an adapter, beside the plain way",
    "preference": "a step of preference training, compared with TRL's DPOTrainer (in an environment of its own)",
    "step": "where the time of a training step goes, by kind of operation",
}
"""Each is a module here with ``measure(repetitions=...)``."""

_VERSIONS = ("torch", "transformers", "peft", "pillow", "numpy")


def main() -> int:
    """Measure what the command line names."""
    cases = "\n".join(f"  {name:12} {text}" for name, text in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=f"cases:\n{cases}\n\nexamples:\n  python -m benchmarks images\n"
        "  python -m benchmarks training vocabulary --repetitions 5 --output figures.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE", help="default: all of them")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds of each, default 3")
    parser.add_argument("--output", type=Path, help="also write everything there, as JSON")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the training command does on a CPU
    results: dict[str, Any] = {"machine": _describe_machine()}
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    for name in asked.cases or CASES:
        print(f"{name}: {CASES[name]}", flush=True)
        results[name] = importlib.import_module(f"benchmarks.{name}").measure(repetitions=asked.repetitions)
        _print(results[name], indent="  ")
    if asked.output is not None:
        asked.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _describe_machine() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in _VERSIONS}
    cores = len(os.sched_getaffinity(0))
    return {"date": date.today().isoformat(), "cores": str(cores), "python": platform.python_version(), **versions}


def _print(figures: Mapping[str, Any], *, indent: str) -> None:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}")
            _print(value, indent=f"{indent}  ")
        elif isinstance(value, float):
            print(f"{indent}{name:32} {value:12,.3f}")


if __name__ == "__main__":
    sys.exit(main())
