"""Pairs of answers to a film: they train, and the reference's values belong to the frames that were shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.samples.answer_scores import AnswerStore
from tests.films import make_film
from tests.precision import bound
from tests.run.training import flags, losses, run_here
from tests.tiny import conversation, write_data


def write_pairs(folder: Path, **asked: Any) -> str:
    if not (folder / "film.mp4").exists():  # encoded twice, it may have other bytes
        make_film(folder / "film.mp4")
    record = {
        "video": {"video": "film.mp4", **asked},
        "conversations": conversation("<video>\nWhat?", "good word"),
        "rejected": "bad thing " * 3,
    }
    return write_data(folder / "pairs.json", [{**record, "id": "0"}, {**record, "id": "1", "rejected": "no"}])


def run(folder: Path, *extra: str, **asked: Any) -> list[float]:
    arguments = ["--objective", "dpo", "--validation_split", "0", "--use_lora", "true", "--lora_r", "4"]
    arguments += ["--model_max_length", "1024", "--reference_cache", str(folder / "references"), *extra]
    data, output = write_pairs(folder, **asked), folder / f"out{len(list(folder.glob('out*')))}"
    return losses(run_here(flags(data, output, *arguments, model="v2_6", steps=2)))


def num_known(folder: Path) -> int:
    (directory,) = (folder / "references").iterdir()
    store = AnswerStore(directory)
    store.open()
    return len(store)


@pytest.mark.parametrize(
    "change",
    [
        {"asked": {"fps": 0.5}},
        pytest.param({"extra": ["--video_max_slice_nums", "2"]}, marks=pytest.mark.slow),
    ],
    ids=["frames", "slices"],
)
def test_a_pair_about_a_film_trains_and_other_frames_are_scored_again(tmp_path: Path, change: dict[str, Any]) -> None:
    first = run(tmp_path, fps=2)
    assert first[0] == pytest.approx(math.log(2), abs=bound(fp32=1e-5, bf16=1e-2))
    known = num_known(tmp_path)
    assert run(tmp_path, fps=2) == first
    assert num_known(tmp_path) == known, "the same frames are found"
    run(tmp_path, *change.get("extra", ()), **{"fps": 2} | change.get("asked", {}))
    assert num_known(tmp_path) == 2 * known, "other frames, or other slices of them, are others' values"
