"""Films in questions: answered as alone, seen once, and blanked or shuffled where that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.media.opened_films import ReadFilm
from minicpmv.data.records.record import Record
from minicpmv.data.sources.loading import load_records
from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import LoadedModel, load_model
from minicpmv.inference.picture_features import ShownAs, show_film
from minicpmv.inference.predicting import predict
from minicpmv.processing.text.turns import FilmRef
from tests.films import make_film, number_of
from tests.tiny import FIXTURES, conversation, save_picture, write_data

SHORT = GenerationSettings(max_new_tokens=10)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Record]:
    folder = tmp_path_factory.mktemp("films")
    make_film(folder / "a.mp4", num_frames=75)
    save_picture(folder / "p.png", 90, 50)
    asked: list[dict[str, Any]] = [
        {"video": "a.mp4", "conversations": conversation("<video>\nWhat?")},
        {"conversations": conversation("Hello!")},
        {"video": "a.mp4", "conversations": conversation("<video>\nWhere is it, and who else is there?", "Here.")},
        {
            "video": {"video": "a.mp4", "end": 1},
            "image": "p.png",
            "conversations": conversation("<video> and <image>\nEqual?"),
        },
        {"image": "p.png", "conversations": conversation("<image>\nWhat?")},
    ]
    return load_records(write_data(folder / "data.json", asked), for_training=False)


def ask_alone(loaded: LoadedModel, record: Record) -> str:
    """Ask as ``minicpmv chat`` does."""
    facts = record.film_facts or ()

    def part_of(part: Any) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if isinstance(part, FilmRef):
            return {"type": "video", "video": ReadFilm(record.films[part.index], facts[part.index])}
        return {"type": "image", "image": record.images[part.index]}

    content = [part_of(part) for part in record.turns[0].content]
    return answer(loaded, [{"role": "user", "content": content}], settings=SHORT)


@pytest.mark.parametrize("model", ["v2_6", "v4_5", "v4_7"])
def test_films_pictures_and_texts_in_one_batch_are_answered_as_alone(model: str, records: Sequence[Record]) -> None:
    loaded = load_model(FIXTURES / model)
    looks: list[int] = []
    loaded.model.tower.register_forward_pre_hook(lambda module, inputs: looks.append(1))
    said = {each.index: each.answer for each in predict(loaded, records, settings=SHORT, batch_size=len(records))}
    assert len(looks) == 3, "two records show one film, which is seen once"
    assert said == {number: ask_alone(loaded, record) for number, record in enumerate(records)}


def test_frames_are_blanked_and_shuffled_without_other_tokens(records: Sequence[Record]) -> None:
    loaded = load_model(FIXTURES / "v4_5")

    def numbers(shown_as: ShownAs) -> list[int]:
        film = show_film(loaded.processor, records[0], 0, shown_as)
        return [number_of(frame) for frame in film.read(lambda frame: frame)]

    shuffled = numbers("shuffled")
    assert numbers("they are") == sorted(shuffled) != shuffled
    assert numbers("shuffled") == shuffled, "in the same order each time"
    grey = show_film(loaded.processor, records[0], 0, "blank").read(lambda frame: frame.getcolors())
    assert set(map(tuple, grey)) == {((64 * 48, (128, 128, 128)),)}
    ways: tuple[ShownAs, ...] = ("they are", "blank", "shuffled")
    said = [next(predict(loaded, [records[0]], settings=SHORT, shown_as=way)).answer for way in ways]
    assert len(set(said)) == 3


def test_each_film_is_shuffled_in_an_order_of_its_own(tmp_path: Path) -> None:
    """Wherever it lies. In one order for all, frames next to each other would tell of others."""
    processor = load_model(FIXTURES / "v4_5").processor
    orders: list[list[int]] = []
    for place in ("here/set/a.mp4", "there/set/a.mp4", "here/set/b.mp4"):
        folder = (tmp_path / place).parent
        folder.mkdir(parents=True, exist_ok=True)
        make_film(tmp_path / place, num_frames=75)
        asked = [{"video": Path(place).name, "conversations": conversation("<video>?")}]
        (record,) = load_records(write_data(folder / "data.json", asked), for_training=False)
        orders.append(
            [number_of(frame) for frame in show_film(processor, record, 0, "shuffled").read(lambda frame: frame)]
        )
    assert orders[0] == orders[1] != orders[2]


def test_films_that_a_release_does_not_take_are_named(records: Sequence[Record], tmp_path: Path) -> None:
    processor = load_model(FIXTURES / "v2_5").processor
    with pytest.raises(Exception, match="film: found one, expected none"):
        show_film(processor, records[0], 0)
