"""Validation records are asked about what training shows of them; ``run/test_samples.py`` has the answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.evaluation.measuring.asking import describe_films
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.questions import Question, encode_question
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.monitoring.validation_answers import AsTrained
from tests.tiny import FIXTURES, conversation, save_picture, write_data


@pytest.mark.parametrize(
    ("model", "settings", "max_length", "frames"),
    [
        ("v4_5", {}, 1024, 7),
        ("v4_5", {"max_frames": 3}, 1024, 3),
        ("v4_5", {}, 70, 5),
        ("v4_5", {}, 40, 4),  # in blocks of several
        ("v2_6", {"video_max_slice_nums": 2}, 1024, 7),
        ("v2_6", {"video_max_slice_nums": 2}, 70, 4),  # of one tile
    ],
)
def test_a_film_is_shown_as_in_training(
    model: str, settings: dict[str, int], max_length: int, frames: int, tmp_path: Path
) -> None:
    for number in range(7):
        save_picture(tmp_path / "film" / f"{number}.png", 150, 80, seed=number)
    save_picture(tmp_path / "p.png", 40, 40)
    asked = {"video": "film", "image": "p.png", "conversations": conversation("<image><video>\nWhat?", "So.")}
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / model, **settings)
    dataset = ConversationDataset(
        load_records(write_data(tmp_path / "d.json", [asked])), processor, max_length=max_length
    )
    fit, (record,) = dataset.fit(0), AsTrained(dataset)
    question = Question(0, record, fit.max_slice_nums)
    for with_pixels in (False, True):
        shown = encode_question(processor, question, settings=GenerationSettings(), with_pixels=with_pixels)
        assert sum(shown.image_mask) == fit.num_image_tokens
        assert len(shown.input_ids) < fit.length
    (film,) = describe_films(record, processor)
    assert len(film["shown_at"]) == frames
