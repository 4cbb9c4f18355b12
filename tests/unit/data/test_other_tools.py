"""Records in the shapes that other tools publish: read as they mean, or named with what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.record import Record
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem
from minicpmv.processing.text.turns import ImageRef
from minicpmv.releases.table import VERSIONS
from tests.tiny import conversation, save_picture, write_data

OBJECTS = {"ref": ["sheep"], "bbox": [[9, 16, 45, 48]]}


@pytest.fixture(autouse=True)
def _in_a_folder_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(Path("red.png"), 90, 60)
    save_picture(Path("wide.png"), 200, 50)
    save_picture(Path("two words.png"))


def load(record: dict[str, Any], *, version: str | None = None) -> Record:
    path = write_data(Path("train.json"), [record])
    (loaded,) = load_records(path, version=None if version is None else VERSIONS[version])
    return loaded


def problems_of(record: dict[str, Any], *, version: str | None = None) -> Sequence[Problem]:
    with pytest.raises(DataError) as caught:
        load(record, version=version)
    return caught.value.problems


def talk(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"messages": conversation(*texts), **fields}


def texts_of(record: Record) -> list[str]:
    return [turn.text for turn in record.turns]


@pytest.mark.parametrize(
    "text",
    [
        "Picture 1: <img>red.png</img>\nWhat is it?",
        "<|vision_start|>red.png<|vision_end|>What?",
        "<|vision_start|><|image_pad|><|vision_end|>What?",
        "<|image_1|>\nWhat?",
        "![a picture](red.png) What?",
        "![a picture](elsewhere/none.jpg) What?",
        "red.png\nWhat is it?",
        "What is in red.png?",
        "two words.png",
        "<audio>\nWhat?",
        "<|video_pad|>What?",
        "What is <ref-object>?",
    ],
)
@pytest.mark.parametrize("style", ["messages", "conversations"])
def test_a_mark_without_what_it_stands_for_is_named(text: str, style: str) -> None:
    (problem,) = problems_of({style: conversation(text, "Red.")})
    assert problem.code == "D161"
    assert problem.where.endswith(f"{style}[0].content")


@pytest.mark.parametrize(
    "record",
    [
        talk("<image>\nWhat is in red.png?", "Red.", images=["red.png"]),  # its own name
        talk("What is in none.png?", "Red."),
        talk("See ![badge](https://a.org/b.svg).", "Red."),
        talk("Which file?", "red.png"),
        talk("How do I show a film in HTML?", "With <video> or <audio>."),
        talk("Where?", "<bbox>10 20 30 40</bbox>"),
    ],
)
def test_text_that_only_looks_like_a_mark_is_trained(record: dict[str, Any]) -> None:
    assert load(record).turns


def test_boxes_stand_where_their_marks_were() -> None:
    record = load(talk("<image>Where is <ref-object>?", "<ref-object>: <bbox>", images=["red.png"],
                       objects={"ref": ["it", "sheep"], "bbox": [[9, 16, 45, 48]]}))  # fmt: skip
    assert texts_of(record) == ["Where is <ref>it</ref>?", "<ref>sheep</ref>: <box>100 267 500 800</box>"]
    assert record.turns[0].content[0] == ImageRef(0)


@pytest.mark.parametrize(
    ("objects", "written"),
    [
        ({"bbox": [[20, 5, 100, 25]], "image_id": [1]}, "<box>100 100 500 500</box>"),
        ({"bbox": [[9, 6, 45, 30]], "image_id": [0]}, "<box>100 100 500 500</box>"),
        ({"bbox": [[0.1, 0.1, 0.5, 1]], "bbox_type": "norm1"}, "<box>100 100 500 1000</box>"),
        ({"bbox": [[1, 2, 3, 1000]], "bbox_type": "norm1000"}, "<box>1 2 3 1000</box>"),
    ],
)
def test_boxes_are_scaled_by_their_own_image(objects: dict[str, Any], written: str) -> None:
    record = load(talk("<image><image>Where?", "<bbox>", images=["red.png", "wide.png"], objects=objects))
    assert texts_of(record)[1] == written


def test_pixels_need_to_know_their_image() -> None:
    record = talk("<image><image>Where?", "<bbox>", images=["red.png", "wide.png"], objects={"bbox": [[1, 2, 3, 4]]})
    (problem,) = problems_of(record)
    assert (problem.code, problem.expected) == ("D165", "which image each box is in")


def test_thinking_goes_where_the_release_has_a_place() -> None:
    record = {
        "messages": [*conversation("2+2?"), {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}]
    }
    assert texts_of(load(record, version="4.5"))[1] == "<think>\n2 and 2\n</think>\n\n4"
    assert [problem.code for problem in problems_of(record, version="2.6")] == ["D164"]
    record["messages"] += conversation("Sure?", "Yes.")
    assert [problem.code for problem in problems_of(record, version="4.5")] == ["D152"]


def test_a_system_prompt_is_refused_where_there_are_no_system_turns() -> None:
    (problem,) = problems_of(talk("Why?", "So.", system_prompt="Be brief."), version="2.0")
    assert (problem.code, problem.where.rpartition(" ")[2]) == ("D151", "system_prompt")


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"instruction": "Add.", "input": "2+3", "output": "5"}, ["Add.\n2+3", "5"]),
        ({"instruction": "Add.", "input": "", "output": "5", "system": ""}, ["Add.", "5"]),
        ({"instruction": "So?", "output": "5", "history": [["a", "b"]], "system": "s"}, ["s", "a", "b", "So?", "5"]),
        ({"query": "<image>What?", "response": "Red.", "images": ["red.png"]}, ["What?", "Red."]),
        ({"question": "What?", "answer": "Red.", "image": "red.png"}, ["What?", "Red."]),
        ({"prompt": "What?", "completion": "Red."}, ["What?", "Red."]),
    ],
)
def test_records_without_messages_are_read(record: dict[str, Any], texts: list[str]) -> None:
    assert texts_of(load(record)) == texts


def test_several_answers_are_what_evaluation_accepts() -> None:
    assert load({"question": "What?", "answers": ["Red.", "red"]}).references == ("Red.", "red")
    annotated = [{"answer": "red", "answer_confidence": "yes"}, {"answer": "pink", "answer_confidence": "no"}]
    record = load({"question": "What?", "multiple_choice_answer": "pink", "answers": annotated})
    assert (texts_of(record)[1], record.references) == ("pink", ("red", "pink"))


@pytest.mark.parametrize(
    ("record", "code", "word"),
    [
        ({"query": "Q", "response": "R", "output": "S"}, "D117", "one answer"),
        ({"query": "Q", "response": "R", **talk("x", "y")}, "D117", "one conversation"),
        (talk("Q", "A", tools="[{}]"), "D166", "name"),
        (talk("Q", "A", frames=["a.mp4"]), "D160", "frames"),
        (talk("Q", "A", rejected_response="B", rejected_images=["b.png"]), "D160", "worse answer"),
        ({"messages": [*conversation("Q"), {"role": "assistant", "content": "A", "mask": 1}]}, "D160", "mask"),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "tool", "value": "{}"}]}, "D123", "tool_calls"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}, *conversation("", "A")[1:]]},
         "D118", "films"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_says_what_it_is(record: dict[str, Any], code: str, word: str) -> None:
    (problem,) = [each for each in problems_of(record) if each.code == code]
    assert word in f"{problem.expected} {problem.fix}"
