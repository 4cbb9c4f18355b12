"""``minicpmv eval --turns``: each answer is asked for after the recorded ones, and what was not asked for is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minicpmv.evaluation.score_files import read_answers
from tests.parity.cases import FIXTURES
from tests.run.forked import minicpmv
from tests.run.test_chat import SLICED

MODEL = FIXTURES / "v2_6"


def _record(name: str, *answers: str) -> dict[str, Any]:
    conversation: list[dict[str, Any]] = []
    for number, answer in enumerate(answers):
        conversation.append({"role": "user", "content": ("" if number else "<image>\n") + f"Question {number}?"})
        conversation.append({"role": "assistant", "content": answer})
    return {"id": name, "image": str(MODEL / SLICED), "conversations": conversation}


RECORDS = [_record("a", "One.", "Two.", "Three."), _record("b", "Four."), _record("c", "Five.", "Six.")]


def _write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text(json.dumps(records), encoding="utf-8")
    return file


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_answer_is_asked_for_after_the_recorded_ones(tmp_path: Path) -> None:
    data, output = _write(tmp_path / "data.json", RECORDS), tmp_path / "scores.jsonl"
    asked = ("--max-new-tokens", "6", "--output", output)
    done = minicpmv("eval", MODEL, data, "--turns", "all", *asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "exact match 0.0% (0 of 6 answers)\n"
    lines = _lines(output)
    assert [(line["id"], line["index"], line["turn"], line["reference"]) for line in lines] == [
        ("a", 0, 1, "One."),
        ("a", 0, 2, "Two."),
        ("a", 0, 3, "Three."),
        ("b", 1, 1, "Four."),
        ("c", 2, 1, "Five."),
        ("c", 2, 2, "Six."),
    ]
    assert len({answered.key for answered in read_answers(str(output))}) == 6
    ends = [("a", 2), ("a", 4), ("a", 6), ("b", 2), ("c", 2), ("c", 4)]
    by_id = {record["id"]: record for record in RECORDS}
    cut = [
        by_id[name] | {"id": f"{name}{end}", "conversations": by_id[name]["conversations"][:end]} for name, end in ends
    ]
    alone = minicpmv("eval", MODEL, _write(tmp_path / "cut.json", cut), *asked)
    assert alone.returncode == 0, alone.stderr
    assert [line["answer"] for line in _lines(output)] == [line["answer"] for line in lines]
    again = minicpmv("eval", "--predictions", output, "--json")
    assert json.loads(again.stdout)["records"] == 6


def test_the_share_that_was_asked_for_is_said(tmp_path: Path) -> None:
    data = _write(tmp_path / "data.json", RECORDS)
    done = minicpmv("eval", MODEL, data, "--max-new-tokens", "2")
    told = "asked for 3 of 6 answers; --turns all asks for more than each record's last"
    assert done.stdout.splitlines()[1:] == [told]
    as_json = minicpmv("eval", MODEL, data, "--max-new-tokens", "2", "--json")
    assert json.loads(as_json.stdout)["answers"] == {"asked": 3, "of": 6, "of_weight_0": 0}
    single = minicpmv("eval", MODEL, _write(tmp_path / "one.json", RECORDS[1:2]), "--max-new-tokens", "2")
    assert single.stdout == "exact match 0.0% (0 of 1 records)\n"


def test_what_cannot_act_is_refused(tmp_path: Path) -> None:
    data = _write(tmp_path / "data.json", RECORDS)
    done = minicpmv("eval", MODEL, data, "--turns", "all", "--metrics", "loss")
    assert done.returncode == 2
    assert "--turns all: found with loss or perplexity" in done.stderr


def test_the_same_index_three_times_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"index": 4, "answer": "a", "reference": "a"}\n' * 3, encoding="utf-8")
    done = minicpmv("eval", "--predictions", file)
    assert done.returncode == 2
    assert "answers.jsonl:2: found record 4 again, expected each once" in done.stderr
