"""``--dry_run``: the figures of the run that would follow, its faults, and nothing left behind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

import minicpmv.training.start.dry_run as preflight_module
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.files.disk_space import free_bytes
from minicpmv.training.checkpoints.manifest import find_fault, num_bytes
from minicpmv.training.run import main
from tests.run.forked import run_command
from tests.run.training import flags, make_data
from tests.tiny import FIXTURES, conversation, write_data

_NAMES = ["flags", "data", "lengths", "directory", "weights", "batches", "what learns", "one step", "memory", "disk"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def _checks(told: str) -> list[str]:
    """Names of the checks that passed, in the order of their numbers."""
    found = re.findall(r"(?m)^(\d+)/10 ([a-z ]+)(?:: .*)? \.\.\. ok$", told)
    assert [int(number) for number, _ in found] == list(range(1, len(found) + 1))
    return [name for _, name in found]


def test_figures_are_those_of_the_run(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = "--use_lora --lora_r 4 --packing true --model_max_length 128 --gradient_accumulation_steps 2 --max_steps -1"
    extra += " --num_train_epochs 3 --save_strategy epoch --save_total_limit 1"
    arguments = flags(data, tmp_path / "output", *extra.split())
    assert main([*arguments, "--dry_run", "true"]) == 0
    dry = capsys.readouterr().out
    assert _checks(dry) == _NAMES
    assert list(tmp_path.iterdir()) == []

    assert main(arguments) == 0
    real = capsys.readouterr().out
    total = re.findall(r"(?m)^step \d+/(\d+) ", real)[-1]
    assert f"the run's {total} steps take roughly" in dry
    each_step = next(line for line in real.splitlines() if line.startswith("each step: "))
    assert f"6/10 batches: {each_step} ... ok" in dry
    assert real[real.index("part ") : real.index("step 1/")] in dry, "the table of what learns"

    (checkpoint,) = list_checkpoints(tmp_path / "output")
    final = sum(
        path.stat().st_size for path in (tmp_path / "output").iterdir() if path.suffix in (".safetensors", ".pt")
    )
    needed = 2 * num_bytes(checkpoint) + final  # one more while the oldest still is there
    estimate = re.search(r"disk: ([\d.]+) MiB of .* 2 checkpoints of ", dry)
    assert estimate is not None
    assert float(estimate[1]) == pytest.approx(needed / 2**20, rel=0.1)


def test_step_is_taken_on_the_costliest_row(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss is that of a run on the longest record alone."""
    assert main(flags(data, tmp_path / "dry", "--use_lora", "--lora_dropout", "0", "--dry_run", "true")) == 0
    dry = capsys.readouterr().out
    longest = re.search(r"lengths: \d+ to (\d+) tokens", dry)
    assert longest is not None
    row = re.search(r"1 x the costliest row, of 1 record and (\d+) tokens: loss ([\d.]+), gradient ([\d.]+)", dry)
    assert row is not None
    assert row[1] == longest[1]

    record = {"id": "7", "image": str(Path(data).parent / "7.png")}
    texts = conversation("<image>\nWhat's this?", "word " * 10)
    alone = write_data(tmp_path / "alone.json", [record | {"conversations": texts}])
    assert main(flags(alone, tmp_path / "real", "--use_lora", "--lora_dropout", "0", steps=1)) == 0
    real = capsys.readouterr().out
    assert f"loss {row[2]}  " in real
    assert f"gradient {row[3]}  " in real


def test_fault_in_the_data_stops_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"id": "a7", "image": "gone.png", "conversations": conversation("<image>\nWhat?", "This.")}
    data = write_data(tmp_path / "train.json", [record])
    assert main(flags(data, tmp_path / "output", "--dry_run", "true")) == 2
    told = capsys.readouterr()
    assert _checks(told.out) == ["flags"]
    assert "train.json:2 record 0 (id 'a7') image" in told.err
    assert not (tmp_path / "output").exists()


def test_missing_key_stops_it(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = shutil.copytree(FIXTURES / "v2_6", tmp_path / "base", ignore=shutil.ignore_patterns("cases*", "images"))
    tensors = load_file(base / "model.safetensors")
    del tensors["resampler.query"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    arguments = flags(data, tmp_path / "output", "--dry_run", "true")
    assert main([*arguments, "--model_name_or_path", str(base)]) == 2
    told = capsys.readouterr()
    assert _checks(told.out) == _NAMES[:4]
    assert "resampler.query" in told.err
    assert not (tmp_path / "output").exists()


def test_too_small_a_disk_stops_it(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight_module, "free_bytes", lambda directory: min(1000, free_bytes(directory)))
    assert main(flags(data, tmp_path / "output", "--use_lora", "--dry_run", "true", "--save_steps", "1")) == 2
    told = capsys.readouterr()
    assert _checks(told.out) == _NAMES[:-1]
    assert re.search(r"output: found 1,000 bytes free, expected [\d,]+: 3 checkpoints of [\d,]+ and ", told.err)
    assert not (tmp_path / "output").exists()


def test_too_little_memory_is_said_with_what_helps(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out(*_: Any, **__: Any) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "training_step", run_out)
    assert main(flags(data, tmp_path / "output", "--dry_run", "true")) == 2
    told = capsys.readouterr()
    assert _checks(told.out) == _NAMES[:7]
    assert "step 1 of 2: found too little memory for a batch of 1 record, " in told.err
    assert " image slices (CUDA out of memory. Tried to allocate 2.00 GiB.), expected room for it" in told.err
    assert "fix: --activation_checkpointing true, or " in told.err


def test_earlier_checkpoints_stay_and_are_told(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = flags(data, tmp_path, "--use_lora", "--lora_r", "4", steps=1)
    assert main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    dry = [*arguments, "--dry_run", "true"]
    assert main(dry) == 2
    assert "found checkpoint-1 of an earlier run" in capsys.readouterr().err
    assert main([*dry, "--overwrite_output_dir", "true"]) == 0
    assert "--overwrite_output_dir would delete 1 earlier checkpoint ... ok" in capsys.readouterr().out
    assert main([*dry, "--resume_from_checkpoint", "true"]) == 0
    assert "the run would resume from checkpoint-1 ... ok" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert find_fault(tmp_path / "checkpoint-1", check_content=True) is None


@pytest.mark.parametrize("extra", ["--check_first false", "--report_to tensorboard --save_strategy no"])
def test_flags_that_change_what_is_known_work(
    extra: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(data, tmp_path / "output", "--dry_run", "true")
    if "check_first" in extra:
        extra += " --on_bad_record skip"
    assert main([*arguments, *extra.split()]) == 0
    assert _checks(capsys.readouterr().out) == _NAMES
    assert not (tmp_path / "output").exists()


def test_two_processes_rehearse_together(data: str, tmp_path: Path) -> None:
    arguments = flags(data, tmp_path / "output", "--use_lora", "--lora_r", "4", "--dry_run")
    done = run_command(arguments, processes=2)
    assert done.returncode == 0, done.stderr
    assert _checks(done.stdout) == _NAMES
    assert "2 x the costliest row" in done.stdout
    assert "GiB in 2 processes of the machine's" in done.stdout
    assert not (tmp_path / "output").exists()
