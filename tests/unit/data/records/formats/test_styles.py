from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from minicpmv.data.records.record import Record
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.text.turns import ImageRef, Turn
from tests.tiny import conversation, picture, save_picture, write_data

SHAREGPT = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So."}]
ASKED_PLAINLY = {"from": "human", "value": "Why?"}
ASKED = {"type": "text", "text": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}
EXPECTED = (Turn("user", (ImageRef(0), "Why?")), Turn("assistant", ("So.",)))


@pytest.fixture(autouse=True)
def _in_a_folder_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(Path("a.png"))
    save_picture(Path("b.png"), 30, 20)


def data_url() -> str:
    file = io.BytesIO()
    picture().save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def load(*records: dict[str, Any]) -> Sequence[Record]:
    return load_records(write_data(Path("train.json"), list(records)))


def problems_of(record: dict[str, Any]) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        load({"id": "a7", **record})
    return list(caught.value.problems)


def told(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return code and field of each problem."""
    return [(problem.code, problem.where.rpartition(") ")[2]) for problem in problems_of(record)]


def asked(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {**fields, "messages": [{"role": "user", "content": list(parts)}, ANSWER]}


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a.png", "conversations": SHAREGPT},
        {"images": ["a.png"], "conversations": SHAREGPT},
        {"images": "a.png", "image": None, "conversations": SHAREGPT, "messages": None},
        {"images": {"<image>": "a.png"}, "conversations": conversation("<image>\nWhy?", "So.")},
        {"images": ["a.png"], "messages": conversation("<image>\nWhy?", "So.")},
        {"image": "a.png", "messages": conversation("Why?", "So."), "conversations": []},
        {"image": {"path": "a.png", "bytes": None}, "conversations": SHAREGPT},
        asked({"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}, ASKED),
        asked({"type": "image_url", "image_url": "a.png"}, ASKED),
        asked({"type": "image", "image": "a.png"}, ASKED),
        asked({"type": "image", "path": "a.png"}, ASKED),
        asked({"type": "image", "url": "a.png", "text": None}, ASKED),
        asked({"type": "image"}, ASKED, images=["a.png"]),
        asked({"type": "image_url", "value": "a.png"}, {"type": "text", "value": "Why?"}),
        asked({"type": "image_url", "value": {"url": "a.png"}}, ASKED),
        {"conversations": asked({"type": "image", "path": "a.png"}, ASKED)["messages"]},
        {
            "conversations": [
                {"from": "human", "value": [{"type": "image", "path": "a.png"}, ASKED]},
                {"from": "gpt", "value": "So."},
            ]
        },
        {"images": [{"path": "a.png", "width": 50}], "messages": conversation("Why?", "So.")},
        asked({"type": "image", "index": 0, "text": None}, ASKED, image="a.png"),
    ],
)
def test_styles_make_the_same_record(record: dict[str, Any]) -> None:
    (loaded,) = load(record)
    assert [Path(str(path)).name for path in loaded.images] == ["a.png"]
    assert loaded.image_sizes == ((50, 40),)
    assert loaded.turns == EXPECTED


@pytest.mark.parametrize("style", ["messages", "conversations"])
def test_system_turns_in_every_style(style: str) -> None:
    talk: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, *conversation("Why?", "So.")]
    if style == "conversations":
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        talk = [{"from": names[message["role"]], "value": message["content"]} for message in talk]
    (record,) = load({style: talk})
    assert [turn.role for turn in record.turns] == ["system", "user", "assistant"]


def test_text_parts_are_joined_by_a_newline() -> None:
    talk = asked(ASKED, {"type": "text", "text": "Say."})["messages"]
    talk[1] = {"role": "assistant", "content": [{"type": "text", "text": "So"}, {"type": "text", "text": "what."}]}
    (record,) = load({"messages": talk})
    assert record.turns == (Turn("user", ("Why?\nSay.",)), Turn("assistant", ("So\nwhat.",)))


def test_images_keep_their_place_among_parts_and_turns() -> None:
    def image(path: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": path}}

    talk = asked(ASKED, image("b.png"), {"type": "text", "text": "\nOr\n"}, image("a.png"))["messages"]
    (record,) = load({"messages": [*talk, {"role": "user", "content": [image("b.png")]}, ANSWER]})
    assert record.turns[0].content == ("Why?", ImageRef(0), "\nOr\n", ImageRef(1))
    assert record.turns[2].content == (ImageRef(2),)
    assert record.image_sizes == ((30, 20), (50, 40), (30, 20))


@pytest.mark.parametrize(
    "record",
    [
        {"image": data_url(), "conversations": SHAREGPT},
        {"images": [data_url()], "messages": conversation("<image>\nWhy?", "So.")},
        asked({"type": "image_url", "image_url": {"url": data_url()}}, ASKED),
        asked({"type": "image", "base64": data_url().partition(",")[2]}, ASKED),
    ],
)
def test_embedded_images_become_bytes(record: dict[str, Any]) -> None:
    (loaded,) = load(record)
    (image,) = loaded.images
    assert isinstance(image, bytes)
    assert load_image(image).tobytes() == picture().tobytes()
    assert (loaded.image_sizes, loaded.turns) == (((50, 40),), EXPECTED)


def test_d142_embedded_image_that_cannot_be_read() -> None:
    broken = data_url()[:-400]
    assert told({"image": broken, "conversations": SHAREGPT}) == [("D142", "image")]
    assert told({"image": ["data:image/png,abc"], "conversations": SHAREGPT}) == [("D142", "image[0]")]
    part = {"type": "image_url", "image_url": {"url": broken}}
    assert told(asked(part, ASKED)) == [("D142", "messages[0].content[0].image_url.url")]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"image": "nope.png", "conversations": SHAREGPT}, ("D141", "image")),
        ({"images": ["a.png", "nope.png"], "messages": conversation("Why?", "So.")}, ("D141", "images[1]")),
        (asked(ASKED, {"type": "image", "path": "nope.png"}), ("D141", "messages[0].content[1].path")),
        (asked(ASKED, {"type": "image", "url": "https://x.org/a.png"}), ("D132", "messages[0].content[1].url")),
        ({"conversations": [ASKED_PLAINLY, {"from": "tool", "value": "So."}]}, ("D123", "conversations[1].from")),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": ""}]},
         ("D126", "conversations[1].value")),
        ({"messages": conversation("Why?", "")}, ("D126", "messages[1].content")),
        ({"messages": [{"role": "human", "content": "Why?"}, ANSWER]}, ("D122", "messages[0].role")),
        ({"messages": conversation("<image>", "So.")}, ("D133", "messages[0].content")),
        ({"images": ["a.png", "b.png"], "conversations": SHAREGPT}, ("D134", "images")),
        ({"messages": "Why?"}, ("D115", "messages")),
    ],
)  # fmt: skip
def test_problems_name_the_field_as_written(record: dict[str, Any], expected: tuple[str, str]) -> None:
    assert told(record) == [expected]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"conversations": SHAREGPT, "messages": conversation("Why?", "So.")}, ("D117", "")),
        ({"image": "a.png", "images": ["b.png"], "conversations": SHAREGPT}, ("D117", "")),
        (asked({"type": "image", "path": "a.png"}, ASKED, images=["b.png"]), ("D117", "")),
        (asked({"type": "image"}, ASKED), ("D118", "messages[0].content[0]")),
        (asked({"type": "image"}, {"type": "image", "path": "a.png"}), ("D118", "messages[0].content[0]")),
        (asked({"type": "image", "path": "a.png", "url": "b.png"}), ("D118", "messages[0].content[0]")),
        (asked({"type": "text", "text": "Why?", "value": "How?"}), ("D118", "messages[0].content[0]")),
        (asked({"type": "image", "base64": "?"}), ("D118", "messages[0].content[0].base64")),
        (asked({"type": "video"}, ASKED), ("D118", "messages[0].content[0]")),
        (asked({"type": "video", "path": "a.mp4", "url": "b.mp4"}), ("D118", "messages[0].content[0]")),
        (asked({"type": "video", "path": "a.mp4"}, ASKED, videos=["b.mp4"]), ("D117", "")),
        (asked({"text": "Why?"}), ("D118", "messages[0].content[0]")),
        (asked({"type": "text", "text": 3}), ("D118", "messages[0].content[0].text")),
        (asked("Why?"), ("D118", "messages[0].content[0]")),
        ({"messages": [{"role": "user", "content": "Why?"},
                       {"role": "assistant", "content": [{"type": "image", "path": "a.png"}]}]},
         ("D118", "messages[1].content[0]")),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt"}]}, ("D121", "conversations[1]")),
    ],
)  # fmt: skip
def test_mixtures_and_unknown_parts_are_named(record: dict[str, Any], expected: tuple[str, str]) -> None:
    (problem,) = problems_of(record)
    code, field = expected
    assert problem.code == code
    assert problem.where == f"train.json:2 record 0 (id 'a7') {field}".rstrip()


@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_file_uri_is_its_path(host: str) -> None:
    save_picture(Path("a #1 é.png"))
    uri = f"file://{host}{quote(str(Path('a #1 é.png').absolute()))}"
    for record in ({"image": uri, "conversations": SHAREGPT}, asked({"type": "image_url", "image_url": uri}, ASKED)):
        assert load(record)[0].images == (str(Path("a #1 é.png").absolute()),)
    assert told({"image": f"file://other{Path('a.png').absolute()}", "conversations": SHAREGPT}) == [("D132", "image")]


def test_null_counts_as_left_out_at_every_level() -> None:
    """As in a table, which has every field in every row."""
    talk: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [{"type": "image", "path": "a.png", "url": None, "x": None}, ASKED],
            "weight": None,
        },
        {**ANSWER, "loss": None, "tool_calls": None, "reasoning_content": None},
    ]
    (record,) = load({"messages": talk, "tools": None, "system": None, "objects": None, "label": None, "id": None})
    assert record.turns == EXPECTED


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize("style", ["messages", "conversations"])
def test_an_instruction_of_the_record_becomes_a_system_turn(key: str, style: str) -> None:
    (record,) = load({key: "Be brief.", style: conversation("Why?", "So.")})
    assert record.turns == (Turn("system", ("Be brief.",)), Turn("user", ("Why?",)), Turn("assistant", ("So.",)))
    spoken = [{"role": "system", "content": "Be brief."}, *conversation("Why?", "So.")]
    assert load({key: "Be brief.", style: spoken})[0].turns == record.turns
    assert [problem.code for problem in problems_of({key: "Be long.", style: spoken})] == ["D117"]
    assert told({key: "Be brief.", style: conversation("Why?", "")}) == [("D126", f"{style}[1].content")]


def test_half_of_two_styles_is_judged_as_ours() -> None:
    mixed = {"conversations": [{"from": "human", "value": "Why?"}, ANSWER]}
    assert told(mixed) == [("D121", "conversations[0]"), ("D121", "conversations[0]")]


def test_placeholder_beside_an_image_part_is_one_too_many() -> None:
    part = {"type": "image", "path": "a.png"}
    assert told(asked(part, {"type": "text", "text": "<image> Why?"})) == [("D133", "messages[0].content")]


def test_d107_repeated_keys_survive_the_change_of_form() -> None:
    Path("train.json").write_text(
        '[{"id": 1, "id": 2, "images": ["a.png"], "conversations": '
        '[{"from": "human", "from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'
    )
    with pytest.raises(DataError) as caught:
        load_records("train.json")
    found = [(problem.code, problem.found) for problem in caught.value.problems]
    assert found == [("D107", "the key 'id' more than once"), ("D107", "the key 'from' more than once")]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        (
            '"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "text": "b"}]}]',
            "messages[0].content[0]",
        ),
        ('"images": [{"path": "a.png", "path": "b.png"}], "conversations": []', "images[0]"),
        ('"image": {"path": "a.png", "path": "b.png"}, "conversations": []', "image"),
    ],
)
def test_d107_repeated_keys_inside_parts_and_structs(fields: str, place: str) -> None:
    Path("train.json").write_text(f"[{{{fields}}}]")
    with pytest.raises(DataError) as caught:
        load_records("train.json")
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("D107", f"train.json:1 record 0 {place}")


def test_one_file_may_hold_several_styles() -> None:
    records = load(
        {"conversations": conversation("Why?", "So.")},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"messages": conversation("Why?", "So.")},
        asked(ASKED),
    )
    assert len({json.dumps([str(turn) for turn in record.turns]) for record in records}) == 1
