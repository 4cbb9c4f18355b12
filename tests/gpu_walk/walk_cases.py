"""Walks cases in a process of its own: ``python -m tests.gpu_walk.walk_cases FOLDER CASE...``, beside the fake device.

FOLDER is where small files may be written; each CASE is JSON. Prints one report a line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.gpu_walk.batches import RunInputs
from tests.gpu_walk.device import WatchedDevice
from tests.gpu_walk.faults import switched_off
from tests.gpu_walk.report import Case, write_report
from tests.gpu_walk.walk import Walk, pretend_gpu


def main(folder: Path, cases: list[Case]) -> None:
    pretend_gpu()
    materials: dict[str, RunInputs] = {}
    device = WatchedDevice()  # one for all, as caches keep tensors that live on it
    for case in cases:
        if case.release not in materials:
            materials[case.release] = RunInputs(case.release, folder / case.release)
        with switched_off(case.fault):
            report = Walk(case, materials[case.release], device).report()
        print(write_report(report), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Case(**json.loads(text)) for text in sys.argv[2:]])
