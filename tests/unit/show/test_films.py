"""A film on the page: a strip of the frames that the model is shown, and their blocks among the tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.show.films import Film, describe_frames
from minicpmv.show.page import Header, render_page
from minicpmv.show.record_views import RecordView, view_record
from minicpmv.show.sequence import ImageRun
from minicpmv.show.spelling import TokenSpelling
from tests.tiny import FIXTURES, conversation, save_picture, write_data


def dataset_of(folder: Path, model: str, *, max_length: int = 2048, **settings: Any) -> ConversationDataset:
    for number in range(5):
        save_picture(folder / "film" / f"{number}.png", 90, 50, seed=number)
    save_picture(folder / "p.png", 60, 40)
    record = {
        "id": "0",
        "image": "p.png",
        "video": {"video": "film", "fps": 2},
        "conversations": conversation("<image> before <video>\nWhat?", "So."),
    }
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / model, **settings)
    records = load_records(write_data(folder / "train.json", [record]))
    return ConversationDataset(records, processor, max_length=max_length)


def view_of(folder: Path, model: str, **settings: Any) -> RecordView:
    dataset = dataset_of(folder, model, **settings)
    return view_record(dataset, 0, TokenSpelling(dataset.processor.tokenizer))


def runs(view: RecordView) -> list[str]:
    return [each.label for each in view.sequence if isinstance(each, ImageRun)]


@pytest.mark.parametrize("model", ["v2_6", "v4_6"])
def test_each_frame_is_named_by_its_time(tmp_path: Path, model: str) -> None:
    view = view_of(tmp_path, model, max_frames=3)
    (film,) = view.films
    assert [frame.second for frame in film.frames] == [0.0, 1.0, 2.0]
    assert runs(view) == [
        "image 1 overview",
        "film 1 frame 1 at 0 s",
        "film 1 frame 2 at 1 s",
        "film 1 frame 3 at 2 s",
    ]
    assert [type(part).__name__ for part in view.messages[0].parts] == ["Picture", "str", "Film", "str"]


def test_frames_that_share_a_block_are_named_together(tmp_path: Path) -> None:
    """Of five blocks, of seven tokens each with what is around them, two fit."""
    whole = dataset_of(tmp_path, "v4_5").fit(0).length
    view = view_of(tmp_path, "v4_5", max_length=whole - 3 * 7)
    (film,) = view.films
    assert film.plan.group == 2
    assert describe_frames(film) == f"{len(film.plan.times)} frames in {film.plan.num_blocks} blocks of up to 2"
    assert runs(view)[1] == "film 1 frames 1 to 2 at 0, 0.5 s"
    assert [frame.block for frame in film.frames][:3] == [1, 1, 2]
    assert view.lengths.max_frames == len(film.plan.times)


def test_the_page_has_a_strip_of_frames_with_their_times(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, "v2_6", video_max_slice_nums=2)
    page = render_page(dataset, Header(data="train.json", model="v2_6", num_records=1, choice=""))
    assert len(re.findall(r'<li><img src="data:image/', page)) == len(view_of(tmp_path, "v2_6").films[0].frames)
    assert 'alt="frame at 0.5 seconds"' in page
    assert re.search(r'<a href="#record-1-film-1">film 1: \d frames</a>', page)


def test_a_long_strip_leaves_frames_out_and_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpmv.show.films.MAX_FRAMES", 2)
    film: Film = view_of(tmp_path, "v2_6").films[0]
    assert len(film.frames) == 2
    assert film.num_hidden == len(film.plan.times) - 2
