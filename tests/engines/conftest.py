"""What the engines run, and where they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
Drive = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder, with its model fine-tuned in full by the script that users start.

    MINICPMV_TUNED_DEMO names a folder in which ``sh finetune_ds.sh`` ran already, to spare its minutes.
    """
    given = os.environ.get("MINICPMV_TUNED_DEMO")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("tuned")
    variables = os.environ | {"DEMO_DIR": str(folder / "demo"), "OUTPUT_DIR": str(folder / "full")}
    subprocess.run(["sh", str(ROOT / "finetune_ds.sh")], env=variables, check=True, timeout=1800)
    return folder


@pytest.fixture(scope="session")
def heldout(demo: Path) -> list[tuple[str, str]]:
    """Question and picture of 20 records that training has not seen, two of every digit."""
    records: list[dict[str, Any]] = json.loads((demo / "demo" / "heldout.json").read_text(encoding="utf-8"))
    chosen: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        question, answer = (turn["content"] for turn in record["conversations"])
        text = question.removeprefix("<image>").strip()
        chosen.setdefault(answer, []).append((text, str(demo / "demo" / record["image"])))
    return [ask for asks in chosen.values() for ask in asks[:2]]


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """Run a driver in its engine's own environment, and return the arrays that it wrote."""

    def run(engine: str, request: dict[str, Any], *, timeout: float = 900) -> dict[str, Any]:
        python = ROOT / ".engines" / engine / "bin" / "python"
        assert python.is_file(), f"found no {python}, expected the engine's environment; fix: sh scripts/engines.sh"
        asked, answered = tmp_path / "request.json", tmp_path / "result.npz"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [str(python), str(Path(__file__).parent / f"drive_{engine}.py"), str(asked), str(answered)]
        # Not this process's: it names this checkout, whose dependencies the engine's environment does not have.
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        with np.load(answered) as arrays:
            return dict(arrays)

    return run
