"""A run that is resumed goes on with the images that it was trained on, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from minicpmv.training.resume import PICTURES
from minicpmv.training.run import main
from tests.run.training import flags, make_data, read_run
from tests.tiny import save_picture

_LORA = ("--use_lora", "--lora_r", "4", "--lora_modules_to_save", "none")


def _resumed(arguments: list[str]) -> list[str]:
    return [*arguments, "--resume_from_checkpoint", "true", "--max_steps", "6"]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_exchanged_image_is_named_and_can_be_allowed(
    workers: str, cache: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "data", tmp_path / "output"
    folder.mkdir()
    arguments = flags(make_data(folder), output, *_LORA, "--dataloader_num_workers", workers)
    arguments += ["--data_cache", str(tmp_path / "cache") if cache else "false"]
    assert main(arguments) == 0
    with np.load(output / "checkpoint-4" / PICTURES) as kept:
        assert kept["digests"].any(axis=1).sum() >= 3, "of four records, all but the third have an image"
    picture = folder / "0.png"
    before = picture.read_bytes()
    save_picture(picture, 56, 56, seed=99)
    capsys.readouterr()
    assert main(_resumed(arguments)) == 2
    told = capsys.readouterr().err
    assert "checkpoint-4: found 1 image(s) that are not those of the run that wrote it" in told
    assert f"\n  {picture}: " in told
    assert "add --allow_changed_images true" in told
    exchanged = picture.read_bytes()
    picture.write_bytes(before)
    shutil.copytree(output, tmp_path / "again")
    assert main([*_resumed(arguments), "--output_dir", str(tmp_path / "again")]) == 0, "written again, and what it was"
    picture.write_bytes(exchanged)
    assert main([*_resumed(arguments), "--allow_changed_images", "true"]) == 0
    (overridden,) = read_run(output)["overridden"]
    assert str(picture) in overridden
    assert main([*_resumed(arguments), "--max_steps", "7"]) == 0, "what was allowed once is what it is"


def test_images_that_change_packed_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = flags(make_data(tmp_path), tmp_path / "output", *_LORA, "--save_steps", "2", steps=2)
    arguments[arguments.index("--packing") + 1] = "true"
    arguments.remove("--train_sampling_strategy")
    arguments.remove("sequential")
    assert main(arguments) == 0
    save_picture(tmp_path / "7.png", 400, 300, seed=1)
    assert main(_resumed(arguments)) == 2
    told = capsys.readouterr().err
    assert "1 image(s) that are not those of the run that wrote it and records have other numbers of tokens" in told
    assert f"{tmp_path}/7.png" in told


def test_data_that_have_moved_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "here").mkdir()
    data = make_data(tmp_path / "here")
    arguments = flags(data, tmp_path / "output", *_LORA)
    assert main(arguments) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    moved = [*_resumed(arguments), "--data_path", data.replace("/here", "/there")]
    assert main(moved) == 0
    save_picture(tmp_path / "there" / "1.png", 90, 56, seed=99)
    assert main([*moved, "--max_steps", "7"]) == 2
    assert f"{tmp_path}/there/1.png" in capsys.readouterr().err
    course = json.loads((tmp_path / "output" / "checkpoint-6" / "checkpoint.json").read_text())["course"]
    assert course["record_lengths"]


def test_images_that_nobody_looked_at_are_said_not_to_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(make_data(tmp_path), tmp_path / "output", *_LORA, "--check_first", "false", steps=2)
    assert main(arguments) == 0
    said = "notice: images are not compared with those of then: --check_first false"
    assert said not in capsys.readouterr().out
    assert main([*arguments, "--resume_from_checkpoint", "true", "--max_steps", "3"]) == 0
    assert said in capsys.readouterr().out
