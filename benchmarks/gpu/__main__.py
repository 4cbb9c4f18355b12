"""The first minutes on a GPU: what is right, how fast it is, what it needs. Each number is kept as soon as it is known.

Nothing is downloaded and no weights are read: models have random weights, made on the device.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import Lines
from benchmarks.gpu.running import CannotMeasure, Plan, run_stages
from benchmarks.gpu.stages import STAGES

__all__ = ["main"]

_RELEASES = ("2.0", "2.5", "2.6", "4.5")
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "deepspeed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 0 if all that was expected holds, 1 if not, 2 if nothing can be measured."""
    asked = _parse(arguments)
    small = ["--small"] if asked.small else []
    words = [*small, "--release", asked.release, "--output", str(asked.output.resolve())]
    if asked.traces is not None:
        asked.traces.mkdir(parents=True, exist_ok=True)
        words += ["--traces", str(asked.traces.resolve())]
    lines = Lines(asked.output, {**_describe(), "sizes": "small" if asked.small else asked.release})
    stages = {name: stage for name, stage in STAGES.items() if name in asked.only}
    try:
        run_stages(Plan(stages, asked.minutes, asked.small, words), lines)
    except CannotMeasure as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _conclude(lines.written, asked.output)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    table = "\n".join(f"  {name:10} {stage.seconds:4.0f} s  {stage.proves}" for name, stage in STAGES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=(__doc__ or "").strip(),
        epilog=f"stages, in their order:\n{table}\n\nexamples:\n  python -m benchmarks.gpu\n"
        "  python -m benchmarks.gpu --only real_size,estimate --release 4.5 --minutes 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of all stages; what no longer fits is left out")
    parser.add_argument("--only", type=_names, default=list(STAGES), metavar="STAGES", help="some, joined by commas")
    parser.add_argument("--release", choices=_RELEASES, default="2.6", help="whose size real_size has, default 2.6")
    parser.add_argument("--output", type=Path, default=Path("gpu.jsonl"), help="gets the lines; default gpu.jsonl")
    parser.add_argument("--traces", type=Path, metavar="DIRECTORY", help="keep the profiles of real_size there")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the command on a CPU")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(f"found {unknown[0]!r}, expected some of {', '.join(STAGES)}")
    return names


def _describe() -> dict[str, Any]:
    """Say what every line says, without importing torch."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"device": "unknown", "driver": _driver(), "versions": versions}


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi"
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return "unknown" if done.returncode else done.stdout.partition("\n")[0].strip()


def _conclude(findings: Sequence[dict[str, Any]], output: Path) -> int:
    def named(found: Sequence[dict[str, Any]]) -> str:
        names = dict.fromkeys("/".join(filter(None, [each["stage"], each.get("case")])) for each in found)
        return f"{len(found)}" + (f": {', '.join(names)}" if found else "")

    failed = [each for each in findings if "failed" in each]
    wrong = [each for each in findings if each.get("holds") is False]
    print(f"hold: {sum(each.get('holds') is True for each in findings)}")
    print(f"do not hold: {named(wrong)}")
    print(f"failed: {named(failed)}")
    print(f"left out: {named([each for each in findings if 'left_out' in each])}")
    print(f"every line is in {output}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
