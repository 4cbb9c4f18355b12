"""Trains beside ms-swift, LLaMA-Factory and TRL, on the same weights and records, and writes a table.

Makes an environment for each of them in a cache folder, once, from the package index alone. Each trains in a process of
its own with one thread, in turns with this package, as it comes and at its best setting here. Ratios count, and within
a round; processor time is the steadier measure where a machine has other work to do. Models are small and random.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import CannotInstall, environment_of
from benchmarks.peers.inputs import KINDS, RECORDS_OF_A_STEP, Places, make_inputs
from benchmarks.peers.released import VARIABLE, MissingCode, find_code, lay_code
from benchmarks.peers.running import RunFailed, own_python, run_watched, variables_of
from benchmarks.peers.table import write_table
from benchmarks.peers.ways import METHODS, WAYS, Run, environment_name, plan, words_of

__all__ = ["main"]

_BF16_UNITS = ("amx_bf16", "avx512_bf16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; return 0 if everything ran, 1 if something failed, 2 if nothing can be compared."""
    asked = _parse(arguments)
    if asked.table_of is not None:
        print(write_table(json.loads(asked.table_of.read_text(encoding="utf-8"))["runs"]), end="")
        return 0
    kinds, code = list(asked.kinds), None
    if any(KINDS[kind].needs_released_code for kind in kinds):
        try:
            code = find_code()
        except MissingCode as error:
            print(f"left out: {error}", file=sys.stderr)
            kinds = [kind for kind in kinds if not KINDS[kind].needs_released_code]
    if not kinds:
        return 2
    runs = list(plan(kinds, asked.methods, asked.ways, rounds=asked.rounds))
    asked.cache.mkdir(parents=True, exist_ok=True)
    try:
        pythons = {
            (each.kind, WAYS[each.way].peer): environment_of(
                environment_name(WAYS[each.way].peer, each.kind), asked.cache
            )
            for each in runs
            if WAYS[each.way].peer != "ours"
        }
    except CannotInstall as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results: dict[str, Any] = {"machine": _describe(asked), "runs": []}
    with tempfile.TemporaryDirectory(dir=asked.cache) as folder:
        inputs = {kind: _make(Path(folder, kind), kind, code, small=asked.small) for kind in kinds}
        for number, run in enumerate(runs, start=1):
            python = pythons.get((run.kind, WAYS[run.way].peer), own_python())
            record = _measure(run, inputs[run.kind], python, Path(folder, f"run{number}"), asked)
            results["runs"].append(record)
            print(f"{number}/{len(runs)} {_tell(record)}", file=sys.stderr, flush=True)
            if asked.output is not None:
                asked.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(write_table(results["runs"]), end="")
    return 1 if any("failed" in record for record in results["runs"]) else 0


def _make(folder: Path, kind: str, code: Path | None, *, small: bool) -> tuple[Places, Places]:
    """Write the inputs of a kind; return ours, and the peers', which have the released code where they need it."""
    ours = make_inputs(folder, kind, small=small)
    if not KINDS[kind].needs_released_code or code is None:
        return ours, ours
    return ours, dataclasses.replace(ours, model=lay_code(code, ours.model, folder / "model_with_code"))


def _measure(
    run: Run, inputs: tuple[Places, Places], python: Path, folder: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    is_ours = WAYS[run.way].peer == "ours"
    folder.mkdir()
    words = words_of(run, inputs[not is_ours], folder / "output", device=asked.device, precision=asked.precision)
    record: dict[str, Any] = dataclasses.asdict(run)
    try:
        record["figures"] = run_watched(
            python,
            words,
            events=folder / "events.jsonl",
            variables=variables_of(asked.cache / "libraries", asked.device, is_ours=is_ours, is_profiled=asked.profile),
            records_of_a_step=RECORDS_OF_A_STEP,
        )
    except RunFailed as error:
        record["failed"] = str(error)
    shutil.rmtree(folder)
    return record


def _tell(record: dict[str, Any]) -> str:
    name = f"round {record['round']}, {record['kind']}, {record['method']}, {record['way']}"
    if "failed" in record:
        return f"{name}: failed\n{record['failed']}"
    figures = record["figures"]
    return f"{name}: {figures['processor_seconds']:.2f} processor-s a sample, losses " + ", ".join(
        f"{loss:.3f}" for loss in figures["losses"]
    )


def _describe(asked: argparse.Namespace) -> dict[str, str]:
    return {
        "date": date.today().isoformat(),
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor("model name"),
        "python": platform.python_version(),
        "device": asked.device,
        "precision": asked.precision,
        "sizes": "small" if asked.small else "full",
    }


def _processor(field: str) -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "unknown")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    ways = "\n".join(f"  {name:20} {way.label} ({', '.join(way.kinds)})" for name, way in WAYS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=(__doc__ or "").strip(),
        epilog=f"ways:\n{ways}\n\n2.6 needs {VARIABLE}, a folder with the released .py files.\n\n"
        "examples:\n  python -m benchmarks.peers --kinds 4.6 --output peers.json\n"
        f"  {VARIABLE}=code python -m benchmarks.peers --kinds 2.6 --methods lora --ways ours ms_swift",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of models; default: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: both")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help="default: all")
    parser.add_argument("--rounds", type=int, default=2, help="of everything, default 2")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda is untested; default cpu")
    parser.add_argument(
        "--precision",
        choices=["bf16", "fp32"],
        help="default: bf16 on a GPU and on processors with units for it, fp32 on others, which emulate bf16",
    )
    parser.add_argument("--small", action="store_true", help="tiny models, to try the commands")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="say where the time of the first step goes, instead of its time and the peak of memory",
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "minicpmv-peers", help="of environments")
    parser.add_argument("--output", type=Path, help="write every run there, as JSON")
    parser.add_argument("--table-of", type=Path, metavar="JSON", help="only write the table of such a file")
    asked = parser.parse_args(arguments)
    has_units = any(unit in _processor("flags").split() for unit in _BF16_UNITS)
    asked.precision = asked.precision or ("bf16" if asked.device == "cuda" or has_units else "fp32")
    return asked


if __name__ == "__main__":
    sys.exit(main())
