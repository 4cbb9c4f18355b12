"""A finished run is uploaded, to either hub, by their own clients against a server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from minicpmv.errors import CheckpointError
from minicpmv.training.finish import pushing
from minicpmv.training.run import train
from tests.hubs import Hub, serve_hub
from tests.run.training import flags, make_data, read_run

_TOKENS = {"HF_TOKEN": "token-of-the-one", "MODELSCOPE_API_TOKEN": "token-of-the-other"}


def test_a_run_uploads_what_it_has_saved_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    with serve_hub({}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", _TOKENS["HF_TOKEN"])
        train(flags(make_data(tmp_path), output, *_asking(""), steps=1))
    check_upload(hub, output, capsys.readouterr().out, token="token-of-the-one")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "modelscope:"])
def test_either_hub_is_found_by_its_clients_variables(prefix: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    words = flags(make_data(tmp_path), output, *_asking(prefix), steps=1)
    places = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    with serve_hub({}) as hub:
        addresses = {"HF_ENDPOINT": hub.address, "MODELSCOPE_ENDPOINT": hub.address}  # read when Python starts
        command = [sys.executable, "-m", "minicpmv.training", *words]
        environment = os.environ | places | _TOKENS | addresses
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    check_upload(hub, output, done.stdout, token="token-of-the-other" if prefix else "token-of-the-one")


def _asking(prefix: str) -> list[str]:
    return ["--push_to_hub", "true", "--hub_model_id", f"{prefix}me/receipts"]


def check_upload(hub: Hub, output: Path, printed: str, *, token: str) -> None:
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= hub.uploaded.keys()
    assert hub.uploaded["config.json"] == (output / "config.json").read_bytes()
    assert not [name for name in hub.uploaded if name.startswith(("run.", "log.", "checkpoint-"))]
    assert hub.tokens == {token}
    assert "Uploaded: " in printed
    assert not [file for file in output.rglob("*") if file.is_file() and token.encode() in file.read_bytes()]


def test_a_run_whose_upload_fails_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise CheckpointError("me/receipts: found that the hub refuses the upload\n  fix: correct the name")

    monkeypatch.setattr(pushing, "push", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
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
