"""Small things that tests build for themselves: pictures and data files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minicpmv.data.records.record import Record
from minicpmv.processing.text.turns import Turn

FIXTURES = Path(__file__).parent / "fixtures"


def picture(width: int = 50, height: int = 40, *, seed: int = 0) -> Image.Image:
    """Make an RGB picture of noise, always the same for one seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save_picture(path: Path, width: int = 50, height: int = 40, *, seed: int = 0) -> str:
    """Write a picture in the format of the path's extension, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(width, height, seed=seed).save(path)
    return str(path)


def conversation(*texts: str) -> list[dict[str, str]]:
    """Make messages of the texts, user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def write_data(path: Path, records: Any) -> str:
    """Write records, one per line of a JSON list so that record n stands on line n + 2."""
    if isinstance(records, list):
        text = "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"
    else:
        text = json.dumps(records, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return str(path)


def weigh(turns: Sequence[Turn], *weights: float) -> tuple[Turn, ...]:
    """Give the answers of a conversation these weights."""
    left = iter(weights)
    return tuple(replace(turn, weight=next(left)) if turn.role == "assistant" else turn for turn in turns)


def weigh_record(record: Record, *weights: float) -> Record:
    """Give the answers of a record these weights."""
    return replace(record, turns=weigh(record.turns, *weights))
