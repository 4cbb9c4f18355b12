"""A finished run is uploaded, to either hub, by their own clients against a server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import CheckpointError
from minicpmv.training.finish import pushing
from minicpmv.training.run import train
from tests.hubs import serve_hub
from tests.run.training import flags, make_data, read_run

_TOKENS = {"HF_TOKEN": "token-of-the-one", "MODELSCOPE_API_TOKEN": "token-of-the-other"}


@pytest.mark.parametrize("prefix", ["", pytest.param("modelscope:", marks=pytest.mark.slow)])
def test_a_run_uploads_what_it_has_saved_and_nothing_else(prefix: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    asked = ["--push_to_hub", "true", "--hub_model_id", f"{prefix}me/receipts"]
    words = flags(make_data(tmp_path), output, *asked, steps=1)
    places = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    with serve_hub({}) as hub:
        addresses = {"HF_ENDPOINT": hub.address, "MODELSCOPE_ENDPOINT": hub.address}  # read when Python starts
        command = [sys.executable, "-m", "minicpmv.training", *words]
        environment = os.environ | places | _TOKENS | addresses
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= hub.uploaded.keys()
    assert hub.uploaded["config.json"] == (output / "config.json").read_bytes()
    assert not [name for name in hub.uploaded if name.startswith(("run.", "log.", "checkpoint-"))]
    assert hub.tokens == {"token-of-the-other" if prefix else "token-of-the-one"}
    assert "Uploaded: " in done.stdout
    assert not [file for file in output.rglob("*") if file.is_file() and b"token-of-the-one" in file.read_bytes()]


def test_a_run_whose_upload_fails_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise CheckpointError("me/receipts: found that the hub refuses the upload\n  fix: correct the name")

    monkeypatch.setattr(pushing, "push", refuse)
    monkeypatch.setattr(pushing.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "token-of-the-one")
    output = tmp_path / "output"
    words = flags(make_data(tmp_path), output, "--push_to_hub", "true", "--hub_model_id", "me/receipts", steps=1)
    with pytest.raises(CheckpointError) as told:
        train(words)
    assert "the hub refuses the upload), expected one that succeeds; the run is finished" in str(told.value)
    assert f"its model is saved in {output}\n  fix: correct the name; then " in str(told.value)
    assert f"push {output} me/receipts" in str(told.value)
    assert read_run(output)["status"] == "finished"
    assert (output / "model.safetensors").exists()
