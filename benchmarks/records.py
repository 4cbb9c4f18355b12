"""Made-up records: pictures that cost as much to decode and cut as photographs do, and texts of chosen lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["MIXED", "WORDS", "make_photograph", "make_records"]

MIXED = (1, 3, 4, 5, 7, 9, 10)
"""Slices of a picture, overview included; other numbers come from pictures that are much longer than wide."""

_SIDES = {
    1: (440, 440),
    3: (640, 620),
    4: (1040, 580),
    5: (900, 900),
    7: (1100, 1100),
    9: (1480, 1040),
    10: (1340, 1340),
}
"""Slices -> width and height of a picture that is cut into as many, pixels."""

WORDS = ("the", "of", "a", "on", "there", "are", "is", "and", "image", "table", "plate", "white", "small", "left")


def make_photograph(width: int, height: int, *, seed: int) -> Image.Image:
    """Make a picture with a photograph's spectrum, hence a photograph's size as JPEG."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.float32)
    for side in (4, 16, 64, 256):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / side**0.5
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255
    return Image.fromarray(pixels.astype(np.uint8))


def make_records(
    folder: Path,
    number: int,
    *,
    slices: Sequence[int] = MIXED,
    words: tuple[int, int] = (10, 270),
    num_pictures: int | None = None,
    seed: int = 0,
) -> str:
    """Write records, and return the data file.

    Args:
        folder: Where pictures and file go.
        number: Of records, each with one picture.
        slices: What a picture is cut into, overview included, in turn.
        words: Least and most words of question and answer together; a word has about three tokens of the tests'
            tokenizer. Two fifths of them are the answer.
        num_pictures: Different ones; the records share them.
        seed: Of all chance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    num_pictures = number if num_pictures is None else num_pictures
    for index in range(num_pictures):
        width, height = _SIDES[slices[index % len(slices)]]
        make_photograph(width, height, seed=seed * 1_000_003 + index).save(folder / f"{index}.jpg", quality=90)
    data = folder / "train.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for index in range(number):
            count = int(rng.integers(*words, endpoint=True))
            text = rng.choice(WORDS, count).tolist()
            question, answer = " ".join(text[: count * 3 // 5]), " ".join(text[count * 3 // 5 :])
            turns = [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": answer}]
            record = {"id": str(index), "image": f"{index % num_pictures}.jpg", "conversations": turns}
            file.write(json.dumps(record) + "\n")
    return str(data)
