"""What a survey keeps of many records and several files."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.reading import open_records
from minicpmv.data.records.record import RawRecord
from minicpmv.data.records.sequences import LazySequence
from minicpmv.data.sources import survey as survey_module
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError, Problem
from tests.tiny import conversation, save_picture, write_data


def read(*paths: str) -> Survey:
    survey = Survey(paths)
    survey.read_texts()
    survey.read_images()
    survey.read_films()
    return survey


def data(folder: Path, name: str, *records: dict[str, Any]) -> str:
    return write_data(folder / name, [{"conversations": conversation("Why?", "So."), **record} for record in records])


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    first = data(tmp_path, "a.json", {"id": "a0"}, {"id": "a1", "conversations": []}, {"id": "a2"})
    last = data(tmp_path, "b.json", {"id": "b0"}, {"id": "b0"}, {"id": "b2"})
    survey = read(first, str(tmp_path / "nowhere.json"), last)
    assert [record.id for record in survey.sound_records()] == ["a0", "a2", "b0", "b2"]
    assert [(finding.problem.code, finding.record and finding.record.position) for finding in survey.findings] == [
        ("D116", 1),
        ("D101", None),
        ("D114", 4),
    ]
    assert survey.statistics().records == 6


def test_records_before_a_damaged_place_are_surveyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaged(LazySequence[RawRecord]):
        def __init__(self, path: str, **options: Any) -> None:
            self.records = open_records(path, **options)

        def __len__(self) -> int:
            return len(self.records)

        def _item(self, index: int) -> RawRecord:
            if index == 2:
                raise DataError([Problem("D108", "a.json", "damage", "none", "copy it again")])
            return self.records[index]

    monkeypatch.setattr(survey_module, "open_records", Damaged)
    first = data(tmp_path, "a.json", {"id": 0}, {"id": 1}, {"id": 2}, {"id": 3})
    survey = read(first, data(tmp_path, "b.json", {"id": 4}, {"id": 5}))
    assert [record.id for record in survey.sound_records()] == [0, 1, 4, 5]
    assert [(finding.problem.code, finding.record) for finding in survey.findings] == [("D108", None)]


def test_records_of_an_unreadable_image_are_not_sound_whoever_is_named(tmp_path: Path) -> None:
    save_picture(tmp_path / "good.png")
    images = ("nowhere.png", "good.png", "nowhere.png")
    survey = read(data(tmp_path, "a.json", *({"id": number, "image": image} for number, image in enumerate(images))))
    assert [(finding.problem.code, finding.record and finding.record.id) for finding in survey.findings] == [
        ("D141", 0)
    ]
    (sound,) = survey.sound_records()
    assert (sound.id, sound.image_sizes) == (1, ((50, 40),))


def test_a_mark_in_an_answer_is_named_once(tmp_path: Path) -> None:
    """As a problem if it may be the film's, and otherwise as a notice, because it stays text."""
    (tmp_path / "film").mkdir()
    save_picture(tmp_path / "film" / "0.png")
    said = [conversation("Why?", "So <video>."), conversation("<video>\nWhy?", "So <video>.")]
    records = [{"id": number, "video": "film", "conversations": talk} for number, talk in enumerate(said)]
    survey = read(data(tmp_path, "a.json", *records))
    assert [(finding.problem.code, finding.record and finding.record.id) for finding in survey.findings] == [
        ("D138", 0),
        ("D311", 1),
    ]


def test_texts_do_not_stay_in_memory(tmp_path: Path) -> None:
    lines = [json.dumps({"id": number, "conversations": conversation("Why?", "So. " * 2500)}) for number in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    tracemalloc.start()
    survey = read(str(tmp_path / "a.jsonl"))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert survey.statistics().characters > 10_000_000
    assert held < 1_000_000
