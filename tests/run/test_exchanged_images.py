"""A run that is resumed goes on with the images that it was trained on, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minicpmv.training.checkpoints.resume import PICTURES
from minicpmv.training.run import main
from tests.run.training import flags, make_data, read_run
from tests.tiny import save_picture

_LORA = ("--use_lora", "--lora_r", "4", "--lora_modules_to_save", "none")


def _resumed(arguments: list[str], *extra: str, steps: int = 5) -> list[str]:
    return [*arguments, "--resume_from_checkpoint", "true", "--max_steps", str(steps), *extra]


@pytest.mark.parametrize(
    ("workers", "cache"),
    [
        ("0", False),
        ("2", True),
        pytest.param("0", True, marks=pytest.mark.slow),
        pytest.param("2", False, marks=pytest.mark.slow),
    ],
)
def test_exchanged_image_is_named(
    workers: str, cache: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(make_data(tmp_path), tmp_path / "output", *_LORA, "--dataloader_num_workers", workers)
    arguments += ["--data_cache", str(tmp_path / "cache") if cache else "false"]
    assert main(arguments) == 0
    with np.load(tmp_path / "output" / "checkpoint-4" / PICTURES) as kept:
        assert kept["digests"].any(axis=1).sum() >= 3, "of four records, all but the third have an image"
    save_picture(tmp_path / "0.png", 56, 56, seed=99)
    capsys.readouterr()
    assert main(_resumed(arguments)) == 2
    told = capsys.readouterr().err
    assert "checkpoint-4: found 1 image other than those" in told
    assert f"\n  {tmp_path / '0.png'}: " in told
    assert "add --allow_changed_images true" in told


def test_images_that_change_packed_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = flags(make_data(tmp_path), tmp_path / "output", *_LORA, "--save_steps", "2", steps=2)
    arguments[arguments.index("--packing") + 1] = "true"
    arguments.remove("--train_sampling_strategy")
    arguments.remove("sequential")
    assert main(arguments) == 0
    save_picture(tmp_path / "7.png", 400, 300, seed=1)
    assert main(_resumed(arguments)) == 2
    told = capsys.readouterr().err
    assert "1 image other than those of the run that wrote it and records have other numbers of tokens" in told
    assert f"{tmp_path}/7.png" in told


def test_data_may_move_and_what_is_allowed_once_is_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    data = make_data(tmp_path / "here")
    arguments = flags(data, tmp_path / "output", *_LORA)
    assert main(arguments) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    picture = tmp_path / "there" / "1.png"
    picture.write_bytes(picture.read_bytes())  # written again, and what it was
    moved = [*arguments, "--data_path", data.replace("/here", "/there")]
    assert main(_resumed(moved)) == 0
    save_picture(picture, 90, 56, seed=99)
    assert main(_resumed(moved, steps=6)) == 2
    assert str(picture) in capsys.readouterr().err
    assert main(_resumed(moved, "--allow_changed_images", "true", steps=6)) == 0
    (overridden,) = read_run(tmp_path / "output")["overridden"]
    assert str(picture) in overridden
    assert main(_resumed(moved, steps=7)) == 0
    fingerprint = json.loads((tmp_path / "output" / "checkpoint-7" / "checkpoint.json").read_text())["fingerprint"]
    assert fingerprint["record_lengths"]


def test_images_that_nobody_looked_at_are_said_not_to_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(make_data(tmp_path), tmp_path / "output", *_LORA, "--check_first", "false", steps=2)
    assert main(arguments) == 0
    said = "notice: images are not compared with those of the earlier run: --check_first false"
    assert said not in capsys.readouterr().out
    assert main([*arguments, "--resume_from_checkpoint", "true", "--max_steps", "3"]) == 0
    assert said in capsys.readouterr().out
