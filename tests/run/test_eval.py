"""``minicpmv eval`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.parity.cases import FIXTURES
from tests.run.forked import minicpmv
from tests.run.test_chat import SLICED, released_answer

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
