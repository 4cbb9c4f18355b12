"""The base's training data: broad, repeatable, and without what the demo's task is about."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.data.sources.loading import load_records
from minicpmv.demo.data import DIGIT_WORDS, QUESTION, digit_picture, digits_of
from minicpmv.demo.mixture import conversations, write_mixture
from minicpmv.demo.pictures import CLOTHING, COLOURS, LETTERS, PLACES, SHAPES, Picture


@cache
def _sample() -> list[tuple[Picture | None, list[tuple[str, str]]]]:
    """Seed 1 is the base's; its first records are these."""
    return list(conversations(1, 3000))


def _fingerprint(image: Image.Image) -> str:
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def _answers() -> Counter[str]:
    return Counter(answer for _, exchanges in _sample() for _, answer in exchanges)


@pytest.mark.parametrize("words", [DIGIT_WORDS, CLOTHING, LETTERS, tuple(COLOURS), SHAPES, PLACES, ("yes", "no")])
def test_every_answer_word_is_trained(words: tuple[str, ...]) -> None:
    answers = _answers()
    assert [word for word in words if not answers[word]] == []


def test_it_is_broad() -> None:
    kinds = Counter(picture.kind if picture else "text" for picture, _ in _sample())
    assert set(kinds) == {"shape", "shapes", "letter", "clothing", "line", "pair", "text"}
    assert len({question for _, exchanges in _sample() for question, _ in exchanges}) > 60


def test_the_tasks_question_is_not_asked() -> None:
    asked = " ".join(question for _, exchanges in _sample() for question, _ in exchanges)
    assert QUESTION not in asked
    assert "digit" not in asked


def test_no_handwritten_digit_is_shown() -> None:
    digits = [*digits_of("train"), *digits_of("validation"), *digits_of("heldout")]
    task = {_fingerprint(digit_picture(digit)) for digit in digits}
    shown = {_fingerprint(picture.image) for picture, _ in _sample() if picture}
    assert len(task) == 1797
    assert not task & shown


def test_a_record_does_not_depend_on_how_many_there_are() -> None:
    few = list(conversations(1, 5))
    assert [exchanges for _, exchanges in few] == [exchanges for _, exchanges in _sample()[:5]]
    for (picture, _), (other, _) in zip(few, _sample(), strict=False):
        assert (picture is None) == (other is None)
        if picture and other:
            assert picture.image.tobytes() == other.image.tobytes()


def test_written_mixture_reads_back(tmp_path: Path) -> None:
    data_file = write_mixture(tmp_path, "mixture", seed=1, count=260)  # the first text alone is record 247
    records = load_records(data_file)
    assert len(records) == 260
    raw = json.loads(data_file.read_text())
    assert any("image" not in record for record in raw)
    assert all(("image" in record) == bool(parsed.images) for record, parsed in zip(raw, records, strict=True))
