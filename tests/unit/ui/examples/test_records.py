"""What a record becomes on the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from minicpmv.data.records.inline_images import data_url
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import UsageError
from minicpmv.processing.films.request import FilmRequest
from minicpmv.releases.table import VERSIONS
from minicpmv.ui.guard import ForeignValueError, read_event
from minicpmv.ui.uploads import check_uploads
from tests.films import make_animation, make_film
from tests.tiny import conversation, save_picture, write_data

if TYPE_CHECKING:
    from minicpmv.ui.examples.records import Example, Examples

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="needs the extra `ui`")


def examples(folder: Path, records: Sequence[dict[str, Any]]) -> Examples:
    from minicpmv.ui.examples.records import Examples  # gradio takes seconds, which every worker would spend

    data = write_data(folder / "data.json", list(records))
    (uploads := folder / "uploads").mkdir()
    loaded = load_records(data, version=VERSIONS["2.6"], for_training=False)
    return Examples(loaded, source=data, folder=str(uploads))


def only(folder: Path, record: dict[str, Any]) -> Example:
    return examples(folder, [record]).open(0)


def test_the_first_question_and_its_answer_are_taken(tmp_path: Path) -> None:
    one, two = (save_picture(tmp_path / folder / "a.png", 20, size) for folder, size in (("x", 30), ("y", 40)))
    talk = [
        {"role": "system", "content": "In one word."},
        *conversation("<image>\n<image>\nWhich is larger? ", "The second.", "Sure?", "Yes."),
    ]
    example = only(tmp_path, {"id": "a7", "image": [one, two], "conversations": talk})
    assert (example.name, example.system, example.expected) == ("a7", "In one word.", ("The second.",))
    assert example.question.strip() == "Which is larger?"
    assert [Path(file).read_bytes() for file in example.files] == [Path(one).read_bytes(), Path(two).read_bytes()]
    assert example.remarks == ("Only the first of its questions is asked.",)
    assert example.is_asked("Which is larger?", example.files)
    assert not example.is_asked("Which is smaller?", example.files)
    assert not example.is_asked("Which is larger?", example.files[::-1])


def test_alternatives_to_the_answer_are_expected_and_an_open_question_expects_nothing(tmp_path: Path) -> None:
    asked, unknown = conversation("How many?", "four"), conversation("How many?")
    found = examples(tmp_path, [{"conversations": asked, "references": ["4", "four"]}, {"conversations": unknown}])
    assert found.open(0).expected == ("4", "four")
    assert found.open(1).expected == ()
    assert found.open(1).name == "data.json", "it has no id"


def test_pictures_within_the_text_are_remarked(tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png")
    example = only(tmp_path, {"image": picture, "conversations": conversation("What is\n<image>\nthis?", "A cat")})
    assert example.remarks == ("Its pictures and films stand elsewhere in its question; here they come first.",)


def test_only_a_record_s_own_files_become_readable(tmp_path: Path) -> None:
    picture, other = save_picture(tmp_path / "a.png", seed=1), save_picture(tmp_path / "b.png", seed=2)
    inside = {"image": data_url(Path(other).read_bytes()), "conversations": conversation("<image>\nb?", "b")}
    found = examples(tmp_path, [{"image": picture, "conversations": conversation("<image>\na?", "a")}, inside])
    uploads = tmp_path / "uploads"

    def ask(path: str) -> None:
        read_event(
            json.dumps({"data": [{"text": "?", "files": [{"path": path}]}]}).encode(), upload_folder=str(uploads)
        )

    (copied,) = found.open(0).files
    assert [file for file in uploads.rglob("*") if file.is_file()] == [Path(copied)], "one record, one file"
    ask(copied)
    (embedded,) = found.open(1).files
    assert Path(embedded).read_bytes() == Path(other).read_bytes()
    ask(embedded)
    assert found.open(0).files == (copied,), "chosen again, nothing is copied again"
    for path in (picture, other, str(tmp_path / "data.json"), str(uploads / ".." / "a.png")):
        with pytest.raises(ForeignValueError, match="not uploaded"):
            ask(path)


@pytest.mark.parametrize("typed", ["", "one", "-1", "1.5", "9" * 13, None, ["1"]])
def test_only_a_number_names_a_record(tmp_path: Path, typed: object) -> None:
    found = examples(tmp_path, [{"conversations": conversation("?", "!")}])
    assert found.read_number(" 1 ") == 1
    with pytest.raises(UsageError, match="record: found something else, expected a number from 0 to 0"):
        found.read_number(typed)


@pytest.mark.parametrize("number", [-1, 1])
def test_a_number_without_a_record_is_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(UsageError, match="found another number, expected one from 0 to 0"):
        examples(tmp_path, [{"conversations": conversation("?", "!")}]).open(number)


def test_a_file_that_is_gone_is_an_error_of_the_record(tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png")
    found = examples(tmp_path, [{"image": picture, "conversations": conversation("<image>\na?", "a")}])
    Path(picture).unlink()
    with pytest.raises(UsageError, match=r"record 0: found it impossible to read its files \(No such file"):
        found.open(0)


def test_a_film_keeps_what_is_asked_of_its_frames(tmp_path: Path) -> None:
    film = {"video": make_film(tmp_path / "a.mp4", num_frames=75), "start": 1, "max_frames": 3}
    example = only(tmp_path, {"video": film, "conversations": conversation("<video>\nWhat happens?", "Nothing")})
    (copied,) = example.files
    assert example.requests == {copied: FilmRequest(start=1, max_frames=3)}
    images, (opened,) = check_uploads(example.files, max_pixels=1, requests=example.requests)
    assert (images, opened.request) == ([], FilmRequest(start=1, max_frames=3))


def test_a_film_that_is_no_film_file_is_refused(tmp_path: Path) -> None:
    film = make_animation(tmp_path / "a.gif", [500, 500])
    with pytest.raises(UsageError, match="found a film of single frames or an animation"):
        only(tmp_path, {"video": film, "conversations": conversation("<video>\nWhat?", "Nothing")})
