"""Whole commands with models of a hub: trained by a name on ModelScope, from a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hubs import Hub, serve_hub
from tests.run.training import flags, make_data
from tests.tiny import FIXTURES

_NOT_A_MODELS = ("cases.json", "cases.safetensors", "grads.safetensors", "inference.json", "inference.safetensors")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "served"
    folder.mkdir()
    for path in (FIXTURES / "v2_6").iterdir():
        if path.is_file() and path.name not in _NOT_A_MODELS:
            (folder / path.name).symlink_to(path)
    with serve_hub({"owner/tiny": folder}) as served:
        yield served


def _run(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: the hubs' clients read their variables when they are imported."""
    places = {"HOME": str(home), "HF_HOME": str(home / "hf"), "MODELSCOPE_CACHE": str(home / "modelscope")}
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"} | places | variables
    return subprocess.run(
        [sys.executable, "-m", "minicpmv", *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow  # names of either hub: tests/unit/releases/test_directories.py
def test_training_by_a_name_on_modelscope_leaves_an_adapter_of_its_copy_here(hub: Hub, tmp_path: Path) -> None:
    output = tmp_path / "output"
    given = flags(make_data(tmp_path), output, "--use_lora", "true", model="v2_6", steps=1)
    given[given.index("--model_name_or_path") + 1] = "modelscope:owner/tiny"
    trained = _run(tmp_path, "train", *given, MODELSCOPE_ENDPOINT=hub.address)
    assert trained.returncode == 0, trained.stderr
    base = json.loads((output / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base.startswith(str(tmp_path / "modelscope"))
