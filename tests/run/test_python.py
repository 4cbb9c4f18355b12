"""``minicpmv.train`` is the run of the command, and leaves the program that calls it as it was."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tqdm import TMonitor

import minicpmv
from minicpmv.errors import DataError, MachineError, UsageError
from minicpmv.files.checkpoint_folders import list_checkpoints
from tests.docs.repository import ROOT
from tests.run.forked import minicpmv as command
from tests.run.prepared import prepared_python
from tests.run.training import flags, losses, make_data, read_run, same_bytes, settings_of
from tests.tiny import FIXTURES, conversation, picture, write_data

_MODEL = FIXTURES / "v2_6"
_START = ["--use_lora", "--lora_r", "4", "--seed", "7"]

pytestmark = pytest.mark.usefixtures("prepared_interpreter")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def commanded(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("command") / "output"
    done = command("train", *flags(data, output, *_START))
    assert done.returncode == 0, done.stderr
    return output


def settings(*extra: str, steps: int = 4) -> dict[str, Any]:
    """Return what the flags of these runs say, as settings of Python."""
    return settings_of(flags("d", Path("o"), *_START, *extra, steps=steps))


def assert_same(output: Path, other: Path) -> None:
    assert losses(read_run(output)) == losses(read_run(other))
    assert same_bytes(*(folder / "adapter_model.safetensors" for folder in (output, other)))


def snapshot() -> Mapping[str, object]:
    return {
        "environment": dict(os.environ),
        "signals": [
            signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
        ],
        "threads": (
            torch.get_num_threads(),
            [each for each in threading.enumerate() if not isinstance(each, TMonitor)],
        ),
        "random": (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()),
        "logging": (logging.root.level, logging.getLogger("transformers").level, list(logging.root.handlers)),
        "other": (os.getcwd(), list(sys.argv), torch.get_default_dtype()),
    }


@pytest.mark.long
def test_command_file_and_script_train_alike(data: str, commanded: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        yaml.safe_dump({"model": str(_MODEL), "data": data, "output": str(tmp_path / "file"), **settings()})
    )
    done = command("train", file)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "file", commanded)
    python = prepared_python()
    words = ["sh", str(ROOT / "finetune_lora.sh"), str(file), "--output", str(tmp_path / "script")]
    environment = {name: value for name, value in os.environ.items() if name not in ("MODEL", "DATA", "GPUS_PER_NODE")}
    environment |= {"PYTHON": python, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert_same(tmp_path / "script", commanded)


def test_two_runs_of_one_program_equal_the_command_and_leave_no_trace(
    data: str, commanded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = snapshot()
    runs = [minicpmv.train(_MODEL, data, output=tmp_path / name, **settings()) for name in ("first", "second")]
    assert snapshot() == before
    for run in runs:
        assert_same(run.output, commanded)
    assert [entry["loss"] for entry in runs[0].metrics if "loss" in entry] == losses(read_run(commanded))
    printed = capsys.readouterr()
    assert printed.out.count("step 4/4  loss") == 2
    assert "4/4" in printed.err


def test_records_in_memory_train_as_their_file_does(data: str, commanded: Path, tmp_path: Path) -> None:
    records = json.loads(Path(data).read_text(encoding="utf-8"))
    run = minicpmv.train(
        _MODEL,
        records,
        {"few": records[:2], "file": data},
        output=tmp_path / "output",
        image_root=str(Path(data).parent),
        **settings(),
    )
    assert_same(run.output, commanded)
    assert {"eval_few_loss", "eval_file_loss"} <= run.results.keys()
    assert run.status == "finished"
    assert run.settings.is_file()
    assert run.report().is_file()
    shown = run._repr_html_()
    assert "finished" in shown
    assert 'src="data:image/png;base64,' in shown


def test_error_of_the_run_is_raised_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = {"id": "a7", "image": "gone.png", "conversations": conversation("<image>\nWhat?", "This.")}
    data = write_data(tmp_path / "train.json", [record])
    with pytest.raises(DataError, match=r"record 0 \(id 'a7'\) image") as caught:
        minicpmv.train(_MODEL, data, output=tmp_path / "output", **settings())
    assert [problem.where for problem in caught.value.problems] == [f"{data}:2 record 0 (id 'a7') image"]
    printed = "".join(capfd.readouterr())
    assert "error" not in printed, "it is said once, by the exception"


def test_dry_run_leaves_nothing(data: str, tmp_path: Path) -> None:
    run = minicpmv.train(
        _MODEL, json.loads(Path(data).read_text())[2:3], output=tmp_path / "output", dry_run=True, **settings()
    )
    assert not run.output.exists()
    assert run.status == "dry run"


def test_interrupt_saves_as_the_command_does(data: str, tmp_path: Path) -> None:
    output = tmp_path / "output"

    def interrupt() -> None:
        while not (output / "log.jsonl").is_file() or not (output / "log.jsonl").stat().st_size:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match=r"stopped by SIGINT after step \d+ of 1000, saved in"):
        minicpmv.train(_MODEL, data, output=output, **settings(steps=1000))
    assert list_checkpoints(output)
    assert minicpmv.Run(output).status == "stopped"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"learning_rat": 1.0},
            "learning_rat: no such setting, expected one that exists\n  fix: did you mean learning_rate",
        ),
        ({"output_dir": "x"}, "output_dir: found as a setting, expected the argument output"),
        ({"lora_r": "many"}, "^lora_r: found 'many', expected a whole number\n  fix: lora_r=64"),
    ],
)
def test_wrong_setting_is_refused_before_anything_starts(given: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        minicpmv.train(_MODEL, "no data", output=tmp_path / "output", **given)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("model", "data", "output", "name"), [(None, "d", "o", "model"), ("m", "d", 3, "output"), ("m", None, "o", "data")]
)
def test_argument_that_cannot_be_is_refused_by_name(
    model: Any, data: Any, output: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^{name}: found"):
        minicpmv.train(model, data, output=output)
    assert not list(tmp_path.iterdir())


def test_process_of_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="found a launcher's variables"):
        minicpmv.train(_MODEL, "data", output=tmp_path)


def test_killed_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(MachineError, match="was killed by SIGKILL"):
        minicpmv.train(_MODEL, "data", output=tmp_path / "output")


def test_loaded_model_answers_streams_predicts_and_is_measured(commanded: Path) -> None:
    model = minicpmv.Run(commanded).load()
    whole = model.chat("What is this?", picture(), max_new_tokens=6)
    assert "".join(model.chat("What is this?", picture(), stream=True, max_new_tokens=6)).strip() == whole
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": "What is this?"}]
    assert model.chat([{"role": "user", "content": content}], max_new_tokens=6) == whole
    record = {"id": "a", "image": picture(), "conversations": conversation("<image>\nWhat is this?", "x")}
    (predicted,) = model.predict([record], max_new_tokens=6)
    assert predicted.id == "a"
    assert predicted.reference == "x"
    results = model.evaluate([record], "exact_match,loss", max_new_tokens=6)
    assert results["exact_match"].value == 0
    assert results["loss"].num_records == 1
    with pytest.raises(UsageError, match="found with messages"):
        model.chat([{"role": "user", "content": "Hello?"}], picture())
