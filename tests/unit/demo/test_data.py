"""The digits: fixed splits, real files, the seeds' format."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpmv.data.sources.loading import load_records
from minicpmv.demo.data import DIGIT_WORDS, QUESTION, Digit, Split, digit_picture, digits_of, write_split

SPLITS: tuple[Split, ...] = ("train", "validation", "heldout")


def _indices(split: Split) -> list[int]:
    return [digit.index for digit in digits_of(split)]


def test_splits_are_disjoint_and_use_every_digit() -> None:
    indices = [index for split in SPLITS for index in _indices(split)]
    assert sorted(indices) == list(range(1797))
    assert [len(_indices(split)) for split in SPLITS] == [1197, 240, 360]


def test_no_picture_occurs_twice() -> None:
    pictures = [digit.ink.tobytes() for split in SPLITS for digit in digits_of(split)]
    assert len(set(pictures)) == 1797


@pytest.mark.parametrize(("split", "count"), [("validation", 24), ("heldout", 36)])
def test_a_constant_answer_scores_ten_per_cent(split: Split, count: int) -> None:
    assert Counter(digit.value for digit in digits_of(split)) == dict.fromkeys(range(10), count)


@pytest.mark.parametrize(
    ("split", "checksum"),
    [
        ("train", "4012905b755e7d78"),
        ("validation", "11cbe894ee6959c3"),
        ("heldout", "abd1680026980273"),
    ],
)
def test_splits_never_change(split: Split, checksum: str) -> None:
    hashed = hashlib.sha256()
    for digit in digits_of(split):
        hashed.update(f"{digit.index} {digit.value} ".encode() + digit.ink.tobytes())
    assert hashed.hexdigest()[:16] == checksum


def test_ink_is_dark_on_white_paper() -> None:
    ink = np.zeros((8, 8), dtype=np.uint8)
    ink[3:5, 3:5] = 16
    picture = np.asarray(digit_picture(Digit(0, 1, ink)))
    assert picture.shape == (56, 56)
    assert picture[0, 0] == 255
    assert picture[28, 28] < 20


def test_written_split_is_in_the_seeds_format_and_reads_back(tmp_path: Path) -> None:
    digits = digits_of("validation")[:3]
    data_file = write_split(tmp_path, "validation", digits)
    first = json.loads(data_file.read_text())[0]
    word = DIGIT_WORDS[digits[0].value]
    assert first == {
        "id": f"digit-{digits[0].index:04d}",
        "image": f"images/validation/digit_{digits[0].index:04d}.png",
        "conversations": [
            {"role": "user", "content": f"<image>\n{QUESTION}"},
            {"role": "assistant", "content": word},
        ],
    }
    records = load_records(data_file)
    assert [len(record.images) for record in records] == [1, 1, 1]
    with Image.open(records[0].images[0]) as image:
        assert (image.format, image.size) == ("PNG", (56, 56))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(digit_picture(digits[0])))


def test_digits_to_train_on_are_also_moved_a_little(tmp_path: Path) -> None:
    digit = digits_of("train")[0]
    write_split(tmp_path, "train", [digit])
    names = [f"digit_{digit.index:04d}{suffix}.png" for suffix in ("", "_1", "_2")]
    pictures = [np.asarray(Image.open(tmp_path / "images" / "train" / name)) for name in names]
    np.testing.assert_array_equal(pictures[0], np.asarray(digit_picture(digit)))
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert {record.turns[-1].content for record in load_records(tmp_path / "train.json")} == {
        (DIGIT_WORDS[digit.value],)
    }


@pytest.mark.parametrize("split", ["validation", "heldout"])
def test_digits_to_measure_on_are_as_collected(split: Split, tmp_path: Path) -> None:
    digit = digits_of(split)[0]
    write_split(tmp_path, split, [digit])
    (file,) = (tmp_path / "images" / split).iterdir()
    np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(digit_picture(digit)))
