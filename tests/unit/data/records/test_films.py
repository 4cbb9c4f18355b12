"""Films of a record in every spelling, read alike and never lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.films import plain_film, plain_films, read_film
from minicpmv.data.records.reading import read_records
from minicpmv.data.records.record import Unread
from minicpmv.data.sources.conversion import convert
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.text.turns import FilmRef, ImageRef
from tests.tiny import conversation, save_picture, write_data


@pytest.fixture(autouse=True)
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        save_picture(Path("a", f"{number}.png"), seed=number)
        save_picture(Path("b", f"{number}.png"), seed=number)
    save_picture(Path("p.png"))


def asked(*parts: Any, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": "So."}]
    return {"messages": messages, **fields}


ASK = {"type": "text", "text": "Why?"}
TALK = {"conversations": conversation("<video>\nWhy?", "So.")}
LISTED = ["a/0.png", "a/1.png"]


@pytest.mark.parametrize(
    "record",
    [
        {"video": "a", **TALK},
        {"videos": ["a"], **TALK},
        {"videos": "a", "conversations": conversation("Why?", "So.")},  # without a mark it goes first
        {"video": {"<video_00>": "a"}, "conversations": conversation("<video_00>\nWhy?", "So.")},
        {"video": {"<video>": "a"}, **TALK},
        {"video": {"video": "a", "fps": None}, **TALK},
        {"videos": [{"path": "a", "bytes": None}], **TALK},
        {"video": "a", "conversations": [{"from": "human", "value": "<video>\nWhy?"}, {"from": "gpt", "value": "So."}]},
        {"video": "a", "query": "<video>\nWhy?", "response": "So."},
        asked({"type": "video", "video": "a"}, ASK),
        asked({"type": "video", "path": "a"}, ASK),
        asked({"type": "video", "url": "a"}, ASK),
        asked({"type": "video_url", "video_url": {"url": "a"}}, ASK),
        asked({"type": "video_url", "video_url": "a"}, ASK),
        asked({"type": "video"}, ASK, videos=["a"]),
        asked({"type": "video", "index": 0}, ASK, video="a"),
    ],
)
def test_all_spellings_are_one_film_before_the_question(record: dict[str, Any]) -> None:
    (read,) = load_records(write_data(Path("train.json"), [{"id": "0"} | record]))
    assert [(film.source, film.request) for film in read.films] == [("a", FilmRequest())]
    assert read.turns[0].content == (FilmRef(0), "Why?")
    assert read.film_facts is not None
    assert read.film_facts[0].frames == 3


@pytest.mark.parametrize(
    ("value", "sources"),
    [
        (LISTED, [("a/0.png", "a/1.png")]),
        ([LISTED, ["b/0.png"]], [("a/0.png", "a/1.png"), ("b/0.png",)]),
        ([LISTED], [("a/0.png", "a/1.png")]),
        ({"video": LISTED}, [("a/0.png", "a/1.png")]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_a_list_of_pictures_is_one_film_and_other_lists_are_several(value: Any, sources: list[Any]) -> None:
    marks = "<video>" * len(sources)
    record = {"id": "0", "video": value, "conversations": conversation(f"{marks}\nWhy?", "So.")}
    (read,) = load_records(write_data(Path("train.json"), [record]))
    assert [film.source for film in read.films] == sources


def test_a_request_goes_with_its_film_and_films_stand_beside_pictures_in_any_turn() -> None:
    record = {
        "id": "0",
        "image": "p.png",
        "video": {"<video_01>": {"video": "b", "start": 1, "max_frames": 2}, "<video_00>": "a"},
        "conversations": conversation("<image>\nWhy?", "So.", "And <video_00>, <video_01>\nthen?", "So."),
    }
    (read,) = load_records(write_data(Path("train.json"), [record]))
    assert read.turns[0].content == (ImageRef(0), "Why?")
    assert read.turns[2].content == ("And ", FilmRef(0), ", ", FilmRef(1), "then?")
    assert [(film.source, film.request) for film in read.films] == [
        ("a", FilmRequest()),
        ("b", FilmRequest(start=1, max_frames=2)),
    ]


def test_pictures_and_then_films_go_first_where_neither_has_a_mark() -> None:
    record = {"id": "0", "image": "p.png", "video": "a", "conversations": conversation("Why?", "So.")}
    (read,) = load_records(write_data(Path("train.json"), [record]))
    assert read.turns[0].content == (ImageRef(0), FilmRef(0), "Why?")


def test_a_part_asks_for_frames_beside_its_film() -> None:
    record = {"id": "0", **asked({"type": "video", "video": "a", "times": [0, 2], "nframes": 2}, ASK)}
    (raw,) = read_records(write_data(Path("train.json"), [record]))
    value: Any = raw.value
    assert value["video"] == [{"video": "a", "times": [0, 2]}]
    assert [(each.level, each.key) for each in raw.unread] == [("film", "nframes")]
    assert raw.where("video[0].times").endswith("messages[0].content[0].video.times")


def test_keys_that_nothing_reads_are_reported() -> None:
    found: list[Unread] = []
    struct = {"video": "file:///a.mp4", "fps": 2, "speed": 3}
    assert plain_film(struct, "video", found.append) == {"video": "/a.mp4", "fps": 2}
    assert [(each.place, each.key, each.value) for each in found] == [("video", "speed", 3)]
    assert plain_films(["a.mp4", None], "video", found.append) == ["a.mp4"]


def test_relative_paths_start_in_a_folder() -> None:
    assert read_film("a.mp4", "root").source == "root/a.mp4"
    assert read_film({"video": ["a.png", "/b.png"], "fps": 2}, "root").source == ("root/a.png", "/b.png")
    assert read_film("/a.mp4", "root").source == "/a.mp4"


def test_conversion_keeps_films_whose_paths_then_start_at_the_new_file() -> None:
    records = [
        {
            "id": "0",
            "video": {"<video_00>": {"video": "a", "fps": 2}},
            "conversations": conversation("<video_00>?", "So."),
        },
        {"id": "1", **asked({"type": "video", "video": "b", "start": 1}, ASK)},
        {"id": "2", "videos": [LISTED, ["b/0.png"]], "conversations": conversation("<video><video>", "So.")},
    ]
    data = write_data(Path("train.json"), records)
    convert([data], "new/train.jsonl")
    before, after = load_records(data), load_records("new/train.jsonl")
    assert [record.turns for record in after] == [record.turns for record in before]
    assert [record.film_facts for record in after] == [record.film_facts for record in before]
    requests = [[film.request for film in record.films] for record in after]
    assert requests == [[film.request for film in record.films] for record in before]
