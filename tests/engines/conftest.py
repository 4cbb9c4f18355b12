"""What the engines run, and where they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.cli.main import main
from tests.exportable import write_exportable_native

ROOT = Path(__file__).parents[2]
Drive = Callable[..., dict[str, Any]]
_UNKNOWN = "        res = None\n\n        # NOTE: if you get an error here"


def _tune(script: str, model: Path, data: Path, output: Path, *flags: str, **settings: str) -> None:
    """Train as a user would, on records of equal length, on one CPU in float32."""
    common = {"LEARNING_RATE": "1e-3", "BATCH_SIZE": "16", "ACCUMULATION": "1", "PRECISION": "fp32", "MEASURE": "0"}
    named = {"MODEL": str(model), "DATA": str(data), "OUTPUT_DIR": str(output)}
    command = ["sh", str(ROOT / script), "--packing", "false", "--activation_checkpointing", "false", *flags]
    subprocess.run(command, env=os.environ | common | named | settings, check=True, timeout=1800)


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
    """What the tuned demo is asked."""
    return choose_heldout(demo / "demo")


@pytest.fixture(scope="session")
def tuned_4_6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 4.6 that knows digits, tuned by the scripts that users start.

    In it ``demo`` (the pictures), ``base`` (random weights), ``full`` (tuned from it in full), ``adapter`` (LoRA on the
    language model of that, for a few steps) and ``merged`` (both). MINICPMV_TUNED_4_6 names a folder in which these
    are already, to spare their minutes.
    """
    given = os.environ.get("MINICPMV_TUNED_4_6")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("tuned_4_6")
    assert main(["demo", "--output", str(folder / "demo")]) == 0
    data = folder / "demo" / "train.json"
    write_exportable_native(folder / "base")
    _tune("finetune_ds.sh", folder / "base", data, folder / "full", EPOCHS="3")
    on_language = "--lora_target_modules all-linear --lora_modules_to_save none --tune_vision false --max_steps 20"
    _tune("finetune_lora.sh", folder / "full", data, folder / "adapter", *on_language.split())
    assert main(["merge", str(folder / "adapter"), str(folder / "merged"), "--dtype", "float32"]) == 0
    return folder


@pytest.fixture(scope="session")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's own converter, in a copy that knows the small tokenizers.

    It knows tokenizers by the ids of a fixed text, so it is told, as ``convert_hf_to_gguf_update.py`` would do.
    MINICPMV_LLAMA_CPP names another checkout than the one in ``.engines``.
    """
    given = Path(os.environ.get("MINICPMV_LLAMA_CPP", ROOT / ".engines" / "llama_cpp" / "llama.cpp"))
    assert given.is_dir(), f"found no {given}, expected a checkout of llama.cpp; fix: sh scripts/engines.sh"
    copy = tmp_path_factory.mktemp("checkouts") / "llama.cpp"
    copy.mkdir()
    shutil.copyfile(given / "convert_hf_to_gguf.py", copy / "convert_hf_to_gguf.py")
    shutil.copytree(given / "conversion", copy / "conversion")
    (copy / "gguf-py").symlink_to((given / "gguf-py").resolve())
    source = copy / "conversion" / "base.py"
    text = source.read_text(encoding="utf-8")
    assert text.count(_UNKNOWN) == 1
    source.write_text(text.replace(_UNKNOWN, _UNKNOWN.replace("None", "'qwen35'")), encoding="utf-8")
    return copy


def choose_heldout(folder: Path) -> list[tuple[str, str]]:
    """Question and picture of 20 records of the demo in a folder that training has not seen, two of every digit."""
    records: list[dict[str, Any]] = json.loads((folder / "heldout.json").read_text(encoding="utf-8"))
    chosen: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        question, answer = (turn["content"] for turn in record["conversations"])
        text = question.removeprefix("<image>").strip()
        chosen.setdefault(answer, []).append((text, str(folder / record["image"])))
    return [ask for asks in chosen.values() for ask in asks[:2]]


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """Run a driver in an engine's environment, under settings of its own, and return the arrays that it wrote."""

    def run(
        engine: str, request: dict[str, Any], *, driver: str | None = None, timeout: float = 900, **settings: str
    ) -> dict[str, Any]:
        python = ROOT / ".engines" / engine / "bin" / "python"
        assert python.is_file(), f"found no {python}, expected the engine's environment; fix: sh scripts/engines.sh"
        asked, answered = tmp_path / "request.json", tmp_path / "result.npz"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [str(python), str(Path(__file__).parent / f"drive_{driver or engine}.py"), str(asked), str(answered)]
        # Not this process's: it names this checkout, whose dependencies the engine's environment does not have.
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        variables |= settings
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        with np.load(answered) as arrays:
            return dict(arrays)

    return run
