"""Defines the demo's task: handwritten digits, their three fixed splits, and their files in the upstream data format.

The pictures are the 1,797 of scikit-learn's digits data, a copy of the test set of "Optical Recognition of Handwritten
Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0),
kept unchanged in ``assets/digits.png``. Nothing here is ever used to make the base model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minicpmv.demo.sheets import ASSETS, read_sheet
from minicpmv.processing.pictures.patches import resize

__all__ = [
    "DIGIT_WORDS",
    "PICTURE_PIXELS",
    "QUESTION",
    "Digit",
    "Split",
    "digit_picture",
    "digits_of",
    "moved_picture",
    "write_records",
    "write_split",
]

Split = Literal["train", "validation", "heldout"]

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTION = "Which digit is it?"

PICTURE_PIXELS = 56
"""Side of every demo picture: one slice of the demo model, 4 x 4 patches."""
DIGIT_PIXELS = 8
"""Side of a digit in the original data."""
INK_LEVELS = 17
"""Grey levels: a pixel counts the inked cells of a 4 x 4 block of the original scan, 0 to 16."""

_HELDOUT_PER_DIGIT = 36
_VALIDATION_PER_DIGIT = 24


@dataclass(frozen=True, eq=False, slots=True)
class Digit:
    """Holds one handwritten digit."""

    index: int
    """Position in scikit-learn's data."""
    value: int
    ink: NDArray[np.uint8]
    """Pixels, (8, 8), 0 (paper) to 16 (fully inked)."""


@cache
def _all_digits() -> tuple[Digit, ...]:
    tiles, labels = read_sheet(ASSETS / "digits.png", tile_pixels=DIGIT_PIXELS)
    paper = INK_LEVELS - 1  # the sheet shows dark ink on white paper
    return tuple(
        Digit(index, int(label), paper - tile) for index, (tile, label) in enumerate(zip(tiles, labels, strict=True))
    )


def digits_of(split: Split) -> tuple[Digit, ...]:
    """Return the digits of one split, in the order of the data.

    The held-out split has 36 of every digit and validation 24, so that a constant answer scores exactly 10 %; the rest
    is for training.
    A hash of the position decides the split, which no library version can change.
    """
    chosen: list[Digit] = []
    for value in range(10):
        same = [digit for digit in _all_digits() if digit.value == value]
        same.sort(key=lambda digit: hashlib.sha256(f"digit {digit.index}".encode()).digest())
        validation_end = _HELDOUT_PER_DIGIT + _VALIDATION_PER_DIGIT
        bounds = {
            "heldout": (0, _HELDOUT_PER_DIGIT),
            "validation": (_HELDOUT_PER_DIGIT, validation_end),
            "train": (validation_end, len(same)),
        }
        start, stop = bounds[split]
        chosen += same[start:stop]
    return tuple(sorted(chosen, key=lambda digit: digit.index))


def digit_picture(digit: Digit) -> Image.Image:
    """Draw a digit as dark ink on white paper, enlarged to 56 x 56 grey pixels."""
    grey = 255 - digit.ink.astype(np.uint16) * 255 // (INK_LEVELS - 1)
    small = Image.fromarray(grey.astype(np.uint8))
    return resize(small, (PICTURE_PIXELS, PICTURE_PIXELS))


def moved_picture(digit: Digit, copy: int) -> Image.Image:
    """Turn the digit's picture by up to 10 degrees and move it by up to 5 pixels, the same for the same ``copy``."""
    rng = Random(f"{digit.index} {copy}")
    shift = (rng.randint(-5, 5), rng.randint(-5, 5))
    return digit_picture(digit).rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, translate=shift, fillcolor=255)


def write_split(output: Path, split: Split, digits: Iterable[Digit] | None = None) -> Path:
    """Write ``images/<split>/digit_NNNN.png`` and ``<split>.json`` under ``output`` and return the JSON file.

    A digit of the training split is written three times, as collected and in two variants (``_1``, ``_2``): 1,197
    pictures alone are soon memorised. Other splits have every digit once, as collected.
    """
    folder = output / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for digit in digits_of(split) if digits is None else digits:
        pictures = {f"{digit.index:04d}": digit_picture(digit)}
        if split == "train":
            pictures |= {f"{digit.index:04d}_{copy}": moved_picture(digit, copy) for copy in (1, 2)}
        for name, picture in pictures.items():
            file = folder / f"digit_{name}.png"
            picture.save(file)
            records.append(_record(f"digit-{name}", file.relative_to(output), digit))
    return write_records(output, split, records)


def write_records(output: Path, split: Split, records: Sequence[dict[str, Any]]) -> Path:
    """Write ``<split>.json`` under ``output`` and return it."""
    data_file = output / f"{split}.json"
    data_file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return data_file


def _record(name: str, image: Path, digit: Digit) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"<image>\n{QUESTION}"}]
    turns += [{"role": "assistant", "content": DIGIT_WORDS[digit.value]}]
    return {"id": name, "image": image.as_posix(), "conversations": turns}
