"""No key of a record is passed over in silence, whatever it is called and wherever it stands."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpmv.cli.main import main
from minicpmv.data.checks.other_tools.foreign_keys import HARMLESS as DESCRIBING
from minicpmv.data.checks.other_tools.foreign_keys import meaning_of
from minicpmv.data.records.reading import open_records
from minicpmv.data.sources.cache import DataCache
from minicpmv.data.sources.loading import Checked, check_records
from minicpmv.data.sources.mixing import DataSource, load_mixture
from minicpmv.data.sources.survey import Survey
from minicpmv.processing.text.turns import Turn
from tests.tiny import conversation, save_picture, write_data

_ALIKE = settings(derandomize=True, deadline=None, database=None, max_examples=120)


def own(record: dict[str, Any], message: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    asked, told = conversation("Why?", "So.")
    return {"conversations": [asked | message, told | answer], **record}


def sharegpt(record: dict[str, Any], message: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    asked, told = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}
    return {"conversations": [asked | message, told | answer], **record}


def openai(record: dict[str, Any], message: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    asked = {"role": "user", "content": [{"type": "text", "text": "Why?"}]}
    return {"messages": [asked | message, {"role": "assistant", "content": "So."} | answer], **record}


STYLES: tuple[Callable[..., dict[str, Any]], ...] = (own, sharegpt, openai)
_READ = (
    "id image images conversations messages references objects system system_prompt role content from value "
    "weight loss_weight loss train trainable training reasoning_content reasoning thinking "
    "type text path url bytes base64 image_url ref bbox bbox_type image_id "
    "instruction input output query question prompt response answer multiple_choice_answer answers history completion"
)
READ = set(_READ.split())
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name.lower() not in READ and meaning_of(name.lower(), "true") is None
)
HARMLESS = st.sampled_from(["coco", "gpt-4o", "https://a.org/x", [], {}, "", {"a": "b"}, ["x", "y"]])
SERIOUS = st.sampled_from(
    [
        "a.png",
        "photos/B.JPEG",
        {"deep": [["a.webp"]]},
        [[1, 2, 3, 4]],
        {"x1": 1, "y1": 2, "x2": 3, "y2": 4},
        "words " * 30,
        "clip.mp4",
        ["sound.wav"],
        "data:image/png;base64," + "A" * 200,
    ]
)


def check(*records: dict[str, Any]) -> Checked:
    with tempfile.TemporaryDirectory() as folder:
        Path(save_picture(Path(folder) / "a_picture.png")).rename(Path(folder) / "picture")
        return check_records(open_records(write_data(Path(folder) / "train.json", list(records))))


def places(record: Any, key: str) -> list[str]:
    """Return severity and field of what is said of a key."""
    checked = check(record)
    named = [*(problem for _, problem in checked.problems), *checked.notices]
    assert {problem.code for problem in named} <= {"D112", "D160", "D320", "D321"}, named
    assert all(repr(key) in problem.found for problem in named if problem.code != "D321")
    return [f"{problem.severity} {problem.where.partition(' 0 ')[2]}" for problem in named if problem.code != "D321"]


def written(place: str, key: str) -> str:
    name = key if key.isidentifier() else repr(key)
    return f"{place}.{name}" if place else name


@_ALIKE
@given(st.sampled_from(STYLES), NAMES, HARMLESS)
def test_any_harmless_key_of_any_style_is_a_notice(style: Callable[..., Any], key: str, value: Any) -> None:
    talk = "messages" if style is openai else "conversations"
    assert places(style({key: value}, {}, {}), key) == [f"notice {written('', key)}"]
    assert places(style({}, {key: value}, {}), key) == [f"notice {written(f'{talk}[0]', key)}"]
    assert places(style({}, {}, {key: value}), key) == [f"notice {written(f'{talk}[1]', key)}"]


@_ALIKE
@given(st.sampled_from(STYLES), NAMES, SERIOUS)
def test_any_serious_value_of_any_style_is_a_problem(style: Callable[..., Any], key: str, value: Any) -> None:
    talk = "messages" if style is openai else "conversations"
    assert places(style({key: value}, {}, {}), key) == [f"problem {written('', key)}"]
    assert places(style({}, {key: value}, {}), key) == [f"problem {written(f'{talk}[0]', key)}"]
    assert places(style({}, {}, {key: value}), key) == [f"problem {written(f'{talk}[1]', key)}"]


@_ALIKE
@given(NAMES, st.sampled_from([True, False, 0, 1, 0.5, -3, [True], [0.5], "two and two"]))
def test_what_may_qualify_an_answer_is_a_problem_beside_it(key: str, value: Any) -> None:
    (said,) = places(own({}, {}, {key: value}), key)
    is_described = any(key.lower() == name or key.lower().endswith(f"_{name}") for name in DESCRIBING)
    assert said.startswith("notice" if is_described else "problem")


@_ALIKE
@given(NAMES, HARMLESS | SERIOUS)
def test_keys_of_parts_structs_and_objects_are_named(key: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(save_picture(Path(folder) / "a.png"))
        for part, place in (
            ({"type": "text", "text": "Why?", key: value}, "messages[0].content[0]"),
            ({"type": "image", "path": path, key: value}, "messages[0].content[0]"),
            ({"type": "image_url", "image_url": {"url": path, key: value}}, "messages[0].content[0].image_url"),
        ):
            (said,) = places(openai({}, {"content": [part]}, {}), key)
            assert said.partition(" ")[2] == written(place, key)
        if not key.startswith("<"):
            (said,) = places(own({"image": {"path": path, key: value}}, {}, {}), key)
            assert said.partition(" ")[2] == written("image", key)
        boxes = {"ref": [], "bbox": [], key: value}
        (said,) = places(own({"objects": boxes}, {}, {}), key)
        assert said.partition(" ")[2] == written("objects", key)


@_ALIKE
@given(NAMES, HARMLESS | SERIOUS)
def test_keys_of_records_without_messages_are_named(key: str, value: Any) -> None:
    for record in (
        {"instruction": "Why?", "output": "So."},
        {"query": "Why?", "response": "So.", "history": [["a", "b"]]},
        {"question": "Why?", "answers": ["So."]},
    ):
        (said,) = places({**record, key: value}, key)
        assert said.partition(" ")[2] == written("", key)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (
            {"source": "coco", "model": "gpt-4", "category": "x", "difficulty": 3, "meta": {"n": 1}, "item_id": 5},
            "D320",
        ),
        ({"width": 640, "height": 480, "image_size": [[640, 480]], "timestamp": 1.5}, "D320"),
        ({"picture_name": "picture"}, "D112"),  # a file that is there, whatever its name
        ({"is_good": True}, "D160"),
        ({"label": 0}, "D160"),
        ({"tools": "[...]"}, "D166"),
        ({"rejected_images": ["b.png"]}, "D160"),
        ({"weight": 0}, "D160"),
        ({"points": [[1, 2], [3, 4]]}, "D160"),
    ],
    ids=str,
)
def test_how_serious_a_key_of_a_record_is(fields: dict[str, Any], code: str) -> None:
    checked = check(own(fields, {}, {}))
    assert {problem.code for problem in (*(each for _, each in checked.problems), *checked.notices)} == {code}


def test_what_is_read_elsewhere_in_the_record_is_no_loss(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.png")
    record = {
        "image": "images/a.png",
        "conversations": conversation("<image>\nWhat is it? " + "Say. " * 30, "So."),
        "file_name": "a.png",
        "coco_url": "http://images.org/000001.jpg",
        "prompt": "What is it? " + "Say. " * 30,
    }
    checked = check_records(open_records(write_data(tmp_path / "train.json", [record])))
    assert not checked.problems
    assert len(checked.notices) == 3


def test_a_key_is_named_once_for_each_file_with_its_count_and_all_its_records_are_bad(tmp_path: Path) -> None:
    records = [own({"good": True} if number % 3 else {"source": "x"}, {}, {}) for number in range(9)]
    path = write_data(tmp_path / "train.json", records)
    checked = check_records(open_records(path))
    assert [(position, problem.code) for position, problem in checked.problems] == [(1, "D160")]
    assert "(6 times in this file)" in checked.problems[0][1].found
    assert checked.bad.tolist() == [1, 2, 4, 5, 7, 8]
    assert ["(3 times in this file)" in notice.found for notice in checked.notices] == [True]
    survey = Survey([path, write_data(tmp_path / "b.json", records)])
    survey.read_texts()
    survey.read_images()
    survey.read_films()
    assert [finding.problem.code for finding in survey.findings] == ["D160", "D320"] * 2
    assert survey.sound_records().positions.tolist() == [0, 3, 6, 9, 12, 15]
    assert [problem.code for problem in survey.problems_of(8)] == ["D160"]
    mixture = load_mixture([DataSource(path)], skip_bad=True)
    assert len(mixture.records) == 3
    assert {name.partition(" record ")[2]: [p.code for p in found] for name, found in mixture.left_out.items()} == {
        str(number): ["D160"] for number in (1, 2, 4, 5, 7, 8)
    }


def test_what_is_not_read_is_said_again_where_the_check_is_recalled(tmp_path: Path) -> None:
    path = write_data(tmp_path / "train.json", [own({"source": "x"}, {}, {}), {"question": "Why?", "answer": "So."}])
    cache = DataCache(tmp_path / "kept")
    first, second = (load_mixture([DataSource(path)], cache=cache) for _ in range(2))
    assert (first.num_recalled, second.num_recalled) == (0, 2)
    assert [notice.code for notice in first.notices] == ["D320", "D321"]
    assert second.notices == first.notices


@pytest.mark.parametrize(
    ("written", "weight"),
    [
        ({"weight": 0.5}, 0.5),
        ({"loss_weight": 0.0}, 0.0),
        ({"loss": False}, 0.0),
        ({"train": False}, 0.0),
        ({"trainable": 0}, 0.0),
        ({"loss": True}, 1.0),
        ({"weight": 3}, 3.0),
        ({"weight": True}, 1.0),
        ({"loss": True, "weight": 0.5}, 0.5),
        ({"weight": None}, 1.0),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_weights_of_answers_are_read(
    style: Callable[..., Any], written: dict[str, Any], weight: float, tmp_path: Path
) -> None:
    record = style({}, {"weight": 0}, written)
    record[next(iter(record))] += style({}, {}, {})[next(iter(record))]
    mixture = load_mixture([DataSource(write_data(tmp_path / "train.json", [record]))])
    (loaded,) = mixture.records
    assert [turn.weight for turn in loaded.turns] == [1.0, weight, 1.0, 1.0]
    assert not mixture.notices


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("style", STYLES)
def test_thinking_is_read_as_the_models_that_think_write_it(
    style: Callable[..., Any], key: str, tmp_path: Path
) -> None:
    (record,) = load_mixture([DataSource(write_data(tmp_path / "train.json", [style({}, {}, {key: "Hm.\n"})]))]).records
    assert record.turns[-1] == Turn("assistant", ("<think>\nHm.\n</think>\n\nSo.",))


def test_json_of_a_check_counts_the_records_of_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(
        tmp_path / "train.json", [own({"good": True}, {}, {}), own({}, {}, {}), own({"good": True}, {}, {})]
    )
    assert main(["check", path, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["problems"]["count"], report["problems"]["records"]) == (1, 2)


@pytest.mark.parametrize(
    "answer",
    [
        {"train_detail": [{"begin_offset": 0, "train": False}]},
        {"spans": {"deep": [[0.5]]}},
        {"loss_scale": "0.5"},
        {"kept": "true"},
        {"think": "x"},
        {"thought": "two words"},
        {"reasoning_details": [{"text": "hidden"}]},
    ],
    ids=str,
)
def test_what_qualifies_an_answer_counts_at_any_depth_and_as_a_text(answer: dict[str, Any]) -> None:
    (key,) = answer
    assert places(own({}, {}, answer), key) == [f"problem conversations[1].{key}"]


@pytest.mark.parametrize(
    "fields",
    [
        {"is_bad": "true"},
        {"exclude": "yes"},
        {"sample_weight": 0.1},
        {"ignore": 1},
        {"loss_scale": "0.5"},
        {"history": [["a", "b"]]},
        {"instruction": "Be nice"},
        {"answer": "blue"},
        {"output": "blue"},
        {"context": "Mice."},
        {"choices": ["red", "blue"]},
        {"sys": "Be nice"},
        {"system_message": "Be nice"},
        {"developer": "Be nice"},
        {"bbox_str": "[1,2,3,4]"},
        {"box": "1, 2.5, 3, 4"},
    ],
    ids=str,
)
def test_what_says_more_than_the_messages_is_a_problem(fields: dict[str, Any]) -> None:
    (key,) = fields
    assert places(own(fields, {}, {}), key) == [f"problem {key}"]


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": "So."},
        {"context": "Why?"},
        {"choices": ["Why", "So"]},
        {"text": "Below is an instruction. " * 9 + "### Instruction: Why? ### Response: So."},
        {"parallel_tool_calls": False},
        {"enable_thinking": False},
        {"answer_type": "yes"},
        {"num_images": 1},
        {"similarity": 0.3},
    ],
    ids=str,
)
def test_what_the_messages_say_and_what_describes_is_a_notice(fields: dict[str, Any]) -> None:
    (key,) = fields
    assert places(own(fields, {}, {}), key) == [f"notice {key}"]


@pytest.mark.parametrize(
    "fields", [{"hint": "Look"}, {"A": "red"}, {"choices": ["a", "b"]}, {"lecture": "Mice"}], ids=str
)
def test_any_text_beside_a_question_and_an_answer_is_a_problem(fields: dict[str, Any]) -> None:
    (key,) = fields
    assert places({"question": "Why?", "answer": "So.", **fields}, key) == [f"problem {key}"]
    assert places({"question": "Why?", "answer": "So.", "question_type": "why"}, "question_type") == [
        "notice question_type"
    ]


def test_names_that_a_program_made_are_named_up_to_a_hundred() -> None:
    checked = check(*[own({f"x{number}": "v"}, {}, {}) for number in range(300)])
    assert len(checked.notices) == 101
    assert "200 such places" in checked.notices[-1].found
    checked = check(*[own({f"x{number}": number % 2 == 1}, {}, {}) for number in range(300)])
    assert len(checked.bad) == 300
