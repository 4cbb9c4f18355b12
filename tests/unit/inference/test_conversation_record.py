"""A conversation that was saved is a record that trains the tokens it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from minicpmv.data.media.opened_films import open_film
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, UsageError
from minicpmv.inference.chat import Conversation, Exchange
from minicpmv.inference.conversation_record import save_record
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import LoadedModel, load_model
from minicpmv.processing.text.messages import read_messages
from minicpmv.serving.requests.sent_films import UploadedFilm
from tests.films import make_film
from tests.tiny import FIXTURES

WIDE = str(FIXTURES / "v2_6" / "images" / "wide_150x80.png")
SMALL = str(FIXTURES / "v2_6" / "images" / "small_30x80.png")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(FIXTURES / "v2_6")


def said(loaded: LoadedModel, *exchanges: Exchange, system: str | None = None) -> Conversation:
    """Make a conversation in which these were said, without asking the model."""
    conversation = Conversation(loaded, system=system)
    conversation._exchanges += exchanges
    return conversation


def ids_of_record(file: Path, loaded: LoadedModel) -> tuple[list[int], list[int]]:
    (record,) = load_records(str(file))
    encoded = loaded.processor.encode_conversation(record.turns, record.images)
    return encoded.input_ids, encoded.labels


def ids_of_conversation(conversation: Conversation) -> tuple[list[int], list[int]]:
    turns, images, _ = read_messages(conversation.messages())
    encoded = conversation.loaded.processor.encode_conversation(turns, images)
    return encoded.input_ids, encoded.labels


def test_what_was_said_passes_the_check_and_trains_the_same_tokens(
    loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = GenerationSettings(max_new_tokens=8)
    conversation = Conversation(loaded, settings=settings, system="Be brief.")
    conversation.ask("Which one\n\nis wide?", [SMALL, WIDE])
    conversation.ask("\nWhy <box>1 2 3 4</box>?")
    conversation.ask("", [SMALL])
    file = tmp_path / "said.json"
    save_record(conversation, file)
    assert main(["check", str(file)]) == 0, capsys.readouterr().out
    ids, labels = ids_of_record(file, loaded)
    assert (ids, labels) == ids_of_conversation(conversation)
    asked = loaded.processor.apply_chat_template(conversation.messages()[:-1])["input_ids"][0].tolist()
    assert ids[: len(asked)] == asked, "the prompt that the model was given"
    images = json.loads(file.read_text(encoding="utf-8"))[0]["image"]
    assert [image.partition(",")[0] for image in images] == ["data:image/png;base64"] * 3


def test_only_the_last_answer_keeps_its_thoughts(tmp_path: Path) -> None:
    """As the model reads it: thoughts of earlier answers are left out."""
    thinking = load_model(FIXTURES / "v4_5")
    first, second = "<think>\nA tail.\n</think>\n\nA cat.", "<think>\nFur.\n</think>\n\nGrey."
    conversation = said(thinking, Exchange("What?", (), first), Exchange("Which colour?", (), second))
    save_record(conversation, tmp_path / "said.json")
    (record,) = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    assert [message["content"] for message in record["conversations"]] == ["What?", "A cat.", "Which colour?", second]
    asked = thinking.processor.apply_chat_template(conversation.messages()[:-1], enable_thinking=True)
    prompt = asked["input_ids"][0].tolist()
    assert ids_of_record(tmp_path / "said.json", thinking)[0][: len(prompt)] == prompt


def test_films_are_saved_by_their_paths_and_train_the_same_tokens(loaded: LoadedModel, tmp_path: Path) -> None:
    film = open_film(make_film(tmp_path / "a.mp4", num_frames=75), end=2)
    conversation = said(loaded, Exchange("Equal?", (SMALL,), "No.", films=(film,)))
    save_record(conversation, tmp_path / "said.json")
    (record,) = load_records(str(tmp_path / "said.json"))
    asked = loaded.processor.apply_chat_template(conversation.messages()[:-1])["input_ids"][0].tolist()
    plan = loaded.processor.plan_film(film.facts, record.films[0].request)
    assert record.image_sizes is not None
    (size,) = record.image_sizes
    ids = loaded.processor.encode_text(record.turns, [size], films=[plan]).input_ids
    assert ids[: len(asked)] == asked
    sent: Any = UploadedFilm(film.film.name, film.facts, film.request, 60)
    with pytest.raises(UsageError, match="found a film that was sent and is not kept"):
        save_record(said(loaded, Exchange("?", (), "No.", films=(sent,))), tmp_path / "sent.json")


def test_lines_are_added_to_a_jsonl_file(loaded: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    for word in ("one", "two"):
        save_record(said(loaded, Exchange("Say a word.", (), word)), file)
    assert [record.turns[-1].text for record in load_records(str(file))] == ["one", "two"]


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (Exchange("Hello?", (), ""), "[D126] found"),
        (Exchange("What does <image> mean?", (), "A picture."), "[D133] found 1 placeholder for 0 images"),
        (Exchange("And <image>?", (SMALL,), "A picture."), "[D133] found 2 placeholders for 1 image"),
    ],
)
def test_what_would_train_something_else_is_not_written(
    loaded: LoadedModel, tmp_path: Path, exchange: Exchange, message: str
) -> None:
    with pytest.raises(DataError) as raised:
        save_record(said(loaded, exchange), tmp_path / "said.json")
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_system_turn_is_refused_where_the_version_has_none(tmp_path: Path) -> None:
    conversation: Any = said(load_model(FIXTURES / "v2"), Exchange("Hello?", (), "Hi."), system="Be brief.")
    with pytest.raises(DataError, match="D151"):
        save_record(conversation, tmp_path / "said.json")


def test_places_that_cannot_be_written_are_named(loaded: LoadedModel, tmp_path: Path) -> None:
    conversation = said(loaded, Exchange("Hello?", (), "Hi."))
    save_record(conversation, tmp_path / "said.json")
    for place, found in [
        (tmp_path / "said.json", "found a file of this name"),
        (tmp_path / "no" / "said.json", "impossible to write"),
        (tmp_path / "no" / "said.jsonl", "impossible to write"),
    ]:
        with pytest.raises(UsageError, match=found):
            save_record(conversation, place)
    with pytest.raises(UsageError, match="found no question yet"):
        save_record(Conversation(loaded), tmp_path / "empty.json")
