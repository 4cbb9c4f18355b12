"""What is written as null or empty, in two styles at once, or in the order of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.record import Record
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem
from tests.tiny import conversation, save_picture, write_data

IMAGE: dict[str, Any] = {"type": "image"}
WHY: dict[str, Any] = {"type": "text", "text": "Why?"}


@pytest.fixture(autouse=True)
def _in_a_folder_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(Path("red.png"), 90, 60)
    save_picture(Path("blue.png"), 80, 60)


def load(record: Any, name: str = "train.json") -> Record:
    return load_records(write_data(Path(name), [record]))[0]


def problem_of(record: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        load(record)
    (problem,) = caught.value.problems
    return problem


def said(record: Record) -> list[tuple[str, str, float]]:
    return [(turn.role, turn.text, turn.weight) for turn in record.turns]


ASKED, TOLD = conversation("Why?", "So.")
SAID = [("user", "Why?", 1.0), ("assistant", "So.", 1.0)]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASKED, TOLD], "images": [None]},
        {"messages": [ASKED, TOLD], "image": ""},
        {"messages": [ASKED, None, TOLD]},
        {"conversations": [None, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"messages": [{"role": "user", "content": [WHY, None]}, TOLD]},
        {"query": "Why?", "response": "So.", "history": [None]},
        {"input": "Why?", "output": "So."},
        {"prompt": [ASKED], "completion": [TOLD]},
        {"messages": [{**ASKED, "from": "human", "value": "Why?"}, TOLD]},
    ],
    ids=str,
)
def test_null_is_left_out_at_every_level_and_styles_are_read(record: dict[str, Any]) -> None:
    assert said(load(record)) == SAID
    assert not load(record).images


def test_places_keep_their_numbers_behind_null() -> None:
    assert problem_of({"messages": [None, ASKED, {**TOLD, "content": ""}]}).where.endswith(" messages[2].content")
    problem = problem_of({"messages": [ASKED, TOLD], "images": [None, "red.png", "none.png"]})
    assert problem.where.endswith(" images[2]")


def test_the_prompt_of_a_completion_is_context() -> None:
    asked = {"role": "user", "content": [IMAGE, WHY]}
    record = load({"prompt": [asked, TOLD, ASKED], "completion": [TOLD], "images": ["red.png"]})
    assert [weight for _, _, weight in said(record)] == [1.0, 0.0, 1.0, 1.0]
    assert len(record.images) == 1
    assert problem_of({"prompt": [ASKED], "completion": [{**TOLD, "content": ""}]}).where.endswith(
        " completion[0].content"
    )


@pytest.mark.parametrize(
    ("message", "word"), [({"value": "other"}, "'value': 'other'"), ({"from": "gpt"}, "'from': 'gpt'")]
)
def test_a_message_in_two_styles_is_named(message: dict[str, Any], word: str) -> None:
    problem = problem_of({"messages": [{**ASKED, **message}, TOLD]})
    assert problem.code == "D117"
    assert word in problem.found


def test_the_index_of_an_image_part_is_followed_or_named() -> None:
    def record(*indices: Any) -> dict[str, Any]:
        parts = [IMAGE | ({"index": index} if index is not None else {}) for index in indices]
        return {"messages": [{"role": "user", "content": [*parts, WHY]}, TOLD], "images": ["red.png", "blue.png"]}

    assert [problem_of(record(*indices)).code for indices in ((1, 0), (0, 0), (1, 2))] == ["D118"] * 3
    assert len(load(record(0, 1)).images) == len(load(record(None, None)).images) == 2


@pytest.mark.parametrize(
    ("part", "fix"),
    [
        ({"type": "input_text", "text": "Why?"}, "write 'text' as its type"),
        ({"type": "input_image", "image_url": "red.png"}, "write 'image_url' as its type"),
        ({"text": "Why?"}, "add 'type': 'text'"),
        ({"image": "red.png"}, "add 'type': 'image'"),
    ],
    ids=str,
)
def test_a_part_of_another_type_is_told_its_own(part: dict[str, Any], fix: str) -> None:
    assert problem_of({"messages": [{"role": "user", "content": [part, WHY]}, TOLD]}).fix == fix


CELL = '"[{""role"": ""user"", ""content"": ""Why?""}, {""role"": ""assistant"", ""content"": ""So.""}]"'


def test_a_table_may_have_its_messages_alone() -> None:
    Path("train.csv").write_text(f"messages\n{CELL}\n")
    assert said(load_records("train.csv")[0]) == SAID


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("sep=;\nquestion;answer\nWhy?;So.\n", "remove that line"),
        ("question, answer\nWhy?, So.\n", "remove the space from the header"),
        ("question,answer\rWhy?,So.\r", "tr "),
        ("question\nWhy?\n", "write the names"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(text: str, word: str) -> None:
    Path("train.csv").write_text(text, newline="")
    with pytest.raises(DataError, match="D173") as caught:
        load_records("train.csv")
    assert word in caught.value.problems[0].fix


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-16", "utf-16-le"])
def test_wide_text_is_converted_from_what_it_is_to_its_own_kind(encoding: str) -> None:
    Path("train.csv").write_text("question,answer\nWhy?,So.\n", encoding=encoding)
    with pytest.raises(DataError) as caught:
        load_records("train.csv")
    assert f"iconv -f {encoding[:6].upper()} -t UTF-8 train.csv > utf8.csv" in caught.value.problems[0].fix
