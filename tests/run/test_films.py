"""Films by the command line: packed is unpacked training, every record once, resumed exactly, and cached frames."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.films import make_film
from tests.precision import bound
from tests.run.forked import run_command
from tests.run.training import flags, losses, read_run, run_here, same_bytes
from tests.tiny import conversation, save_picture, write_data

# Measured: 1.0e-6 on losses around 5 after two steps of Adam at 1e-3.
_LOSS = bound(fp32=5e-6, bf16=6e-2)
_NUM_RECORDS = 6
_PACKED = ["--packing", "true", "--model_max_length", "1024"]
_SHORT = ["--packing", "true", "--model_max_length", "160", "--train_sampling_strategy", "random"]
_MODELS = ["v4_5", "v4_6", *(pytest.param(model, marks=pytest.mark.slow) for model in ("v2_6", "v4", "v4_7"))]
"""By default one whose resampler takes times, and one of the newer networks."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Films, films beside a picture, a picture, and text alone; a film of one frame, and one in a later turn.

    One is a film file, the others are folders and lists of frames.
    """
    folder = tmp_path_factory.mktemp("data")
    for number in range(7):
        save_picture(folder / "wide" / f"{number}.png", 90, 50, seed=number)
        save_picture(folder / "upright" / f"{number}.png", 50, 84, seed=10 + number)
    save_picture(folder / "p.png", 150, 80, seed=99)
    make_film(folder / "film.mp4")
    frames = [f"upright/{number}.png" for number in range(3)]
    records: list[dict[str, Any]] = [
        {"video": "wide", "conversations": conversation("<video>\nWhat?", "word " * 5)},
        {
            "image": "p.png",
            "video": {"video": "upright", "max_frames": 4},
            "conversations": conversation("<image> and <video>\nWhat?", "word"),
        },
        {"conversations": conversation("Say it.", "word " * 3)},
        {"image": "p.png", "conversations": conversation("<image>\nWhat?", "word " * 2)},
        {
            "videos": [["wide/3.png"], {"video": frames, "times": [0, 0.4, 2.5]}],
            "conversations": conversation("<video> This?", "word", "And <video>?", "word word"),
        },
        {"video": "film.mp4", "conversations": conversation("What?", "word " * 7)},
    ]
    return write_data(folder / "train.json", [{"id": str(index)} | record for index, record in enumerate(records)])


@pytest.mark.parametrize("model", [pytest.param(_MODELS[0], marks=pytest.mark.slow), *_MODELS[1:]])
def test_films_pictures_and_text_in_one_row_are_their_records_accumulated(
    model: str, data: str, tmp_path: Path
) -> None:
    steps = ["--gradient_accumulation_steps", str(_NUM_RECORDS), "--model_max_length", "1024"]
    alone = run_here(flags(data, tmp_path / "alone", *steps, model=model, steps=2))
    packed = run_here(flags(data, tmp_path / "packed", *_PACKED, model=model, steps=2))
    assert losses(packed) == pytest.approx(losses(alone), abs=_LOSS)


def test_resumed_is_uninterrupted_with_the_settings_that_a_run_chose(data: str, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extra = [*_SHORT, "--use_lora", "--lora_dropout", "0.3", "--save_steps", "3", "--max_frames", "3"]
    extra += ["--dataloader_num_workers", "1"]
    expected = run_here(flags(data, whole, *extra, model="v4_5", steps=6))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    again = [*extra, "--resume_from_checkpoint", "true"]
    found = run_here(flags(data, stopped, *again, model="v4_5", steps=6))
    assert losses(found)[-3:] == losses(expected)[-3:]
    assert same_bytes(stopped / "adapter_model.safetensors", whole / "adapter_model.safetensors")
    assert json.loads(json.loads((whole / "base_model.json").read_text())["film_settings"]) == {"max_frames": 3}


def _run_recorded(arguments: list[str], notes: Path, processes: int) -> list[list[int]]:
    notes.mkdir()
    done = run_command(arguments, processes=processes, module="tests.run.recorded", variables={"RECORDED": str(notes)})
    assert done.returncode == 0, done.stderr
    return [[int(line) for line in (notes / f"rank-{rank}").read_text().split()] for rank in range(processes)]


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_read_every_record_once_in_an_epoch(processes: int, data: str, tmp_path: Path) -> None:
    arguments = flags(data, tmp_path, *_SHORT, "--num_train_epochs", "1", model="v4_5", steps=-1)
    read = _run_recorded(arguments, tmp_path / "notes", processes)
    assert sorted(itertools.chain.from_iterable(read)) == [*range(_NUM_RECORDS)]


@pytest.mark.parametrize("model", ["v4_5", pytest.param("v4_7", marks=pytest.mark.slow)])
def test_cached_frames_give_the_same_run(model: str, data: str, tmp_path: Path) -> None:
    """4.5's resampler, frozen as well, joins cached frames into blocks by their times, which other times change."""
    frozen = [*_PACKED, "--tune_vision", "false", "--tune_resampler", "false", "--num_train_epochs", "2"]
    plain = run_here(flags(data, tmp_path / "plain", *frozen, model=model, steps=-1))
    cached = [*frozen, "--vision_cache", str(tmp_path / "features")]
    first = run_here(flags(data, tmp_path / "first", *cached, model=model, steps=-1))
    second = run_here(flags(data, tmp_path / "second", *cached, model=model, steps=-1))
    assert losses(first) == pytest.approx(losses(plain), abs=_LOSS)
    assert losses(second) == pytest.approx(losses(plain), abs=_LOSS)


def test_what_is_saved_states_how_films_were_shown(data: str, tmp_path: Path) -> None:
    run = run_here(flags(data, tmp_path, *_PACKED, "--video_fps", "0.5", "--max_frames", "5", steps=1))
    stated = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert (stated["video_fps"], stated["max_frames"]) == (0.5, 5)
    assert "video_max_slice_nums" not in stated
    assert read_run(tmp_path)["log"] == run["log"]
