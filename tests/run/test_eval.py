"""``minicpmv eval`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from tests.films import make_film
from tests.parity.cases import FIXTURES
from tests.run.forked import minicpmv
from tests.run.test_chat import SLICED, released_answer
from tests.tiny import conversation, write_data

MODEL = FIXTURES / "v2_6"
QUESTION = "Describe this image in detail."


def write_records(folder: Path, answers: list[str]) -> Path:
    records = [
        {
            "id": f"r{number}",
            "image": str(MODEL / SLICED),
            "conversations": [
                {"role": "user", "content": f"<image>\n{QUESTION}"},
                {"role": "assistant", "content": answer},
            ],
        }
        for number, answer in enumerate(answers)
    ]
    file = folder / "heldout.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    return file


def test_counts_the_answers_that_agree_and_writes_all_of_them(tmp_path: Path) -> None:
    right = released_answer("v2_6", "image_sliced").strip()
    data = write_records(tmp_path, [right, "A cat.", right])
    output = tmp_path / "predictions.jsonl"
    done = minicpmv("eval", MODEL, data, "--max-new-tokens", "12", "--batch-size", "2", "--output", output, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["records"], found["metrics"]["exact_match"]["value"]) == (3, 2 / 3)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(line["id"], line["scores"]["exact_match"], line["reference"]) for line in lines] == [
        ("r0", 1, right),
        ("r1", 0, "A cat."),
        ("r2", 1, right),
    ]
    assert {line["question"] for line in lines} == {QUESTION}


def test_blank_images_take_the_picture_away(tmp_path: Path) -> None:
    data = write_records(tmp_path, [released_answer("v2_6", "image_sliced").strip()])
    done = minicpmv("eval", MODEL, data, "--max-new-tokens", "12", "--blank-images")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["exact_match", "0.0%", "0.0%", "to", "79.3%", "1"]


def test_films_are_asked_about_and_their_frames_shuffled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_film(tmp_path / "a.mp4", num_frames=100)
    record = {"video": {"video": "a.mp4", "fps": 2}, "conversations": conversation("<video>\nWhat?", "So.")}
    data = write_data(tmp_path / "d.json", [record])
    said: list[dict[str, Any]] = []
    for number, flag in enumerate([[], ["--shuffle-frames"], ["--blank-images"]]):
        output = tmp_path / f"{number}.jsonl"
        command = ["eval", str(FIXTURES / "v4_5"), data, "--max-new-tokens", "8", "--output", str(output), *flag]
        assert main(command) == 0
        said.append(json.loads(output.read_text(encoding="utf-8")))
    assert len({line["answer"] for line in said}) == 3
    film = {"video": str(tmp_path / "a.mp4"), "fps": 2, "shown_at": [0.24, 0.72, 1.24, 1.72, 2.24, 2.72, 3.24, 3.72]}
    assert [line["videos"] for line in said] == [[film]] * 3
    capsys.readouterr()
    for more, message in (("--blank-images", "found both"), ("--metrics=loss", "--shuffle-frames: found with loss")):
        assert main(["eval", str(FIXTURES / "v4_5"), data, "--shuffle-frames", more]) == 2
        assert message in capsys.readouterr().err


def test_thoughts_are_written_down_but_do_not_count(tmp_path: Path) -> None:
    """The fixture never ends its thoughts, so that no answer of it agrees with any."""
    model = FIXTURES / "v4_5"
    data = write_records(tmp_path, [released_answer("v4_5", "thinking")])
    output = tmp_path / "predictions.jsonl"
    done = minicpmv("eval", model, data, "--thinking", "--max-new-tokens", "12", "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["exact_match", "0.0%", "0.0%", "to", "79.3%", "1"]
    (line,) = output.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["answer"].startswith("<think>\n")
