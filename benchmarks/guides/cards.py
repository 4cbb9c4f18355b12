"""Draws cards, and asks for their fields as JSON: which letter is printed on a card, and in which colour.

The base can name letters and colours, one at a time, and has never written JSON: so a released model can read, and has
to learn which fields are wanted and what is written where one is absent. A negative is a card that shows a shape and no
letter; its ``letter`` is ``null``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

from minicpmv.demo.data import write_records
from minicpmv.demo.pictures import Picture, draw_letter, draw_shape

__all__ = ["QUESTION", "draw_card", "fields_of", "negatives", "write_cards"]

QUESTION = "Read the card as JSON."

Split = Literal["train", "heldout"]


def negatives(number: int, share: float) -> list[bool]:
    """Say of each card whether it is a negative: the share of them, evenly spread.

    >>> negatives(8, 0.25)
    [False, False, False, True, False, False, False, True]
    """
    return [int(share * index + 1e-9) < int(share * (index + 1) + 1e-9) for index in range(number)]


def draw_card(split: Split, index: int, *, is_negative: bool) -> Picture:
    """Draw a card of a split, the same each time."""
    rng = Random(f"card {split} {index} {is_negative}")
    return draw_shape(rng) if is_negative else draw_letter(rng)


def fields_of(card: Picture) -> dict[str, str | None]:
    """Return what the answer says."""
    return {"letter": card.facts.get("letter"), "colour": card.facts["colour"]}


def write_cards(folder: Path, split: Split, are_negative: Sequence[bool]) -> Path:
    """Write cards and their records, one for each entry, and return the data file."""
    return write_records(folder, split, list(_records(folder, split, are_negative)))


def _records(folder: Path, split: Split, are_negative: Sequence[bool]) -> Iterator[dict[str, Any]]:
    images = folder / "images" / split
    images.mkdir(parents=True, exist_ok=True)
    for index, is_negative in enumerate(are_negative):
        card = draw_card(split, index, is_negative=is_negative)
        name = f"{split}-{index:04d}-{card.kind}"
        file = images / f"{name}.png"
        card.image.save(file)
        turns = [{"role": "user", "content": f"<image>\n{QUESTION}"}]
        turns += [{"role": "assistant", "content": json.dumps(fields_of(card))}]
        yield {"id": f"card-{name}", "image": file.relative_to(folder).as_posix(), "conversations": turns}
