"""What names a record in a file of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.registry import find_metrics
from minicpmv.evaluation.score_files import make_sample, read_answers
from minicpmv.evaluation.scores import measure


def keys(folder: Path, *lines: dict[str, Any]) -> list[str | int]:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps({"answer": "So.", **line}) + "\n" for line in lines))
    return [answered.key for answered in read_answers(str(file))]


def test_a_record_is_named_by_its_id_or_else_its_position(tmp_path: Path) -> None:
    assert keys(tmp_path, {"id": "a", "index": 5}, {"id": None, "index": 7}, {}) == ["a", 7, 2]


def test_records_that_share_an_id_are_named_by_their_positions_too(tmp_path: Path) -> None:
    lines = ({"id": "a", "index": 5}, {"id": "b", "index": 6}, {"id": "a", "index": 2})
    assert keys(tmp_path, *lines) == ["a (record 5)", "b", "a (record 2)"]


@pytest.mark.parametrize("line", [{"id": "a", "index": 5}, {"index": 5}, {"id": "a"}])
def test_a_record_that_comes_twice_is_refused(tmp_path: Path, line: dict[str, Any]) -> None:
    """It would count twice in every metric."""
    with pytest.raises(UsageError, match=r"answers.jsonl:2: found record .* again, expected each record once"):
        keys(tmp_path, line, line)


@pytest.mark.parametrize(
    ("said", "known", "same"),
    [
        ("A cat.", "A cat.", True),
        (" A cat.\n", "A cat.", True),
        ("A cat", "A cat.", False),
        ("<think>\nA tail.\n</think>\n\nA cat.", "A cat.", True),
        ("<think>\nA tail.\n</think>\n\nA cat.", "<think>\nWhiskers.\n</think>\n\nA cat.", True),
        ("<think>\nA cat.\n</think>\n\nA dog.", "A cat.", False),
        ("<think>\nA cat.", "A cat.", False),
    ],
)
def test_only_what_is_said_after_the_thoughts_is_compared(said: str, known: str, same: bool) -> None:
    (exact,) = find_metrics(["exact_match"])
    found = measure(exact, make_sample(question="What is it?", answer=said, references=(known,)))
    assert found is not None
    assert exact.value(found) == same
