"""Records and files of other tools that are not read are told what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.checks.lint import find_text_oddities
from minicpmv.data.records.reading import open_records
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem
from tests.tiny import conversation, save_picture, write_data


@pytest.fixture(autouse=True)
def _in_a_folder_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(Path("red.png"))


def problem_of(data: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        load_records(write_data(Path("train.json"), data))
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"conversation": [{"input": "Why?", "output": "So."}]}, "XTuner"),
        ({"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]}, "Gemini"),
        ({"images": ["red.png"], "texts": [{"user": "Why?", "assistant": "So."}]}, "Cauldron"),
        (
            {"chosen": [*conversation("Why?", "So.")], "rejected": [*conversation("Else?", "No.")]},
            "one question that both answer",
        ),
        ({"image": "red.png", "caption": "A cat."}, "no question"),
        ({"image": "red.png", "text": "A cat."}, "no question"),
    ],
)
def test_a_record_of_another_tool_is_told_what_it_is(record: dict[str, Any], word: str) -> None:
    problem = problem_of([record])
    assert problem.code == "D111"
    assert word in problem.found


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"my": {"root": "images", "annotation": "a.jsonl"}}, "InternVL"),
        ({"train": {"data": [{"messages": conversation("Why?", "So.")}]}}, "under 'data' of 'train'"),
        ({"images": [{"id": 1}], "annotations": [{"id": 1}]}, "COCO"),
    ],
)
def test_a_file_of_another_tool_is_told_what_it_is(data: Any, word: str) -> None:
    problem = problem_of(data)
    assert problem.code == "D105"
    assert word in problem.found


def test_the_number_of_a_choice_is_no_answer() -> None:
    problem = problem_of([{"question": "Which?", "choices": ["red", "blue"], "answer": 1}])
    assert (problem.code, "text of the choice" in problem.fix) == ("D124", True)


@pytest.mark.parametrize("mark", ["<|vision_start|><|image_pad|><|vision_end|>", "<|image_1|>\n"])
def test_a_mark_that_shows_a_picture_is_not_said_to_be_in_the_way(mark: str) -> None:
    record = {"messages": conversation(f"{mark}What?", f"So.{mark}")}
    (read,) = open_records(write_data(Path("train.json"), [record]))
    assert [notice.where.rpartition(" ")[2] for notice in find_text_oddities(read)] == ["messages[1].content"]
    assert problem_of([record]).code == "D161"
