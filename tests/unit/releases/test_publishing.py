"""What is uploaded is the model and its card, to either hub, by their own clients against a server on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv.cli.main import main
from minicpmv.errors import CheckpointError, UsageError
from minicpmv.releases.publishing import plan_push
from tests.hubs import Hub, serve_hub

_MODEL = ["adapter_config.json", "adapter_model.safetensors", "base_model.json", "vpm_resampler_embedtokens.pt"]
_SECRET = "hf_plainsecretofarun123"
_NOT_A_MODELS = ["run.json", "run.yaml", "log.jsonl", "report.html", "samples.jsonl", "training_args.bin", ".env"]
_NOT_A_MODELS += [
    "checkpoint-2/optimizer.pt",
    "checkpoint-2/adapter_model.safetensors",
    "runs/events.out",
    "data/a.json",
]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A directory as a run leaves it, trained on a base in a directory of this machine."""
    folder = tmp_path / "lora"
    for name in (*_MODEL, *_NOT_A_MODELS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_SECRET if name in _NOT_A_MODELS else name)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/private/base", "r": 8}')
    (folder / "base_model.json").write_text('{"path": "/private/base", "model": "openbmb/MiniCPM-V-2_6"}')
    return folder


def _push(hub: Hub, folder: Path, name: str, *flags: str) -> str:
    done = _start_push(hub.address, folder, name, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _start_push(address: str, folder: Path, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    places = {"HOME": str(folder.parent), "HF_HOME": str(folder.parent / "hf"), "HF_HUB_OFFLINE": "0"}
    tokens = {"HF_TOKEN": "token-of-the-one", "MODELSCOPE_API_TOKEN": "token-of-the-other"}
    addresses = {"HF_ENDPOINT": address, "MODELSCOPE_ENDPOINT": address}
    words = [sys.executable, "-m", "minicpmv", "push", str(folder), name, *flags]
    environment = os.environ | places | tokens | addresses
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("prefix", ["", "modelscope:"])
def test_only_the_model_and_its_card_are_uploaded(prefix: str, adapter: Path) -> None:
    with serve_hub({}) as hub:
        told = _push(hub, adapter, f"{prefix}me/receipts", "--base", "openbmb/MiniCPM-V-2_6")
    sent = {name: content for name, content in hub.uploaded.items() if name != ".gitattributes"}
    assert sorted(sent) == sorted([*_MODEL, "README.md"])
    assert json.loads(sent["adapter_config.json"]) == {"base_model_name_or_path": "openbmb/MiniCPM-V-2_6", "r": 8}
    assert json.loads(sent["base_model.json"])["path"] == "openbmb/MiniCPM-V-2_6"
    assert b"base_model: openbmb/MiniCPM-V-2_6\n" in sent["README.md"]
    everything = b"".join(sent.values())
    assert _SECRET.encode() not in everything
    assert b"/private" not in everything
    assert str(adapter).encode() not in everything
    made = hub.created["me/receipts"]
    assert made.get("visibility", made.get("Visibility")) in ("private", 1)
    assert hub.tokens == {"token-of-the-other" if prefix else "token-of-the-one"}
    assert "checkpoint-2" in told


def test_a_base_of_this_machine_is_asked_for_by_its_name(adapter: Path) -> None:
    with pytest.raises(UsageError, match=r"a directory of this machine(.|\n)*fix: --base openbmb/MiniCPM-V-2_6"):
        plan_push(adapter, "me/receipts")


def test_a_card_of_its_own_is_uploaded_as_it_is(adapter: Path) -> None:
    (adapter / "README.md").write_text("mine")
    assert "README.md" in plan_push(adapter, "me/receipts", base="owner/base").files


def test_a_dry_run_asks_nobody(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(adapter), "me/receipts", "--base", "owner/base", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "upload    adapter_model.safetensors\n" in told
    assert "left out  .env, checkpoint-2, data, log.jsonl" in told


@pytest.mark.parametrize("name", ["receipts", "/me/receipts", "me/you/receipts", "modelscope:receipts"])
def test_what_is_no_name_on_a_hub_is_refused(name: str, adapter: Path) -> None:
    with pytest.raises(UsageError, match="expected a name on a hub"):
        plan_push(adapter, name, base="owner/base")


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="found no weights"):
        plan_push(tmp_path, "me/receipts")


@pytest.mark.parametrize("prefix", ["", "modelscope:"])
def test_a_hub_that_cannot_be_reached_is_told_in_two_lines(prefix: str, adapter: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: connections to it are refused
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = _start_push(address, adapter, f"{prefix}me/receipts", "--base", "owner/base")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: me/receipts: found that {address} does not answer (")
    assert done.stderr.endswith("expected a network that leads there\n  fix: try again when it answers\n")


@pytest.mark.parametrize("prefix", ["", "modelscope:"])
@pytest.mark.parametrize(("status", "told"), [(403, "refuses the upload ("), (500, "does not answer (")])
def test_a_hub_that_refuses_is_told_from_one_that_fails(prefix: str, status: int, told: str, adapter: Path) -> None:
    with serve_hub({}, fails_with=status) as hub:
        done = _start_push(hub.address, adapter, f"{prefix}me/receipts", "--base", "owner/base")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: me/receipts: found that {hub.address} {told}")


def test_offline_nothing_is_uploaded(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(adapter), "me/receipts", "--base", "owner/base"]) == 2
    assert "found HF_HUB_OFFLINE set" in capsys.readouterr().err
