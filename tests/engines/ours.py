"""What this package reads and computes, in the terms in which engines are compared with it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from minicpmv.data.records.record import Record
from minicpmv.inference.loading import LoadedModel
from minicpmv.models.answering.answers import generate_answers

__all__ = ["IMAGE_BLOCK", "Asked", "ask", "contents", "distance"]

_SLOTS = r"(<unk>|<\|image_pad\|>)+"
_ROW = rf"({{0}}{_SLOTS}{{1}}(\n(?={{0}}))?)+"
IMAGE_BLOCK = re.compile(
    rf"(<image_id>\d+</image_id>)?<image>{_SLOTS}</image>"
    f"({_ROW.format('<slice>', '</slice>')}|<slice>{_ROW.format('<image>', '</image>')}</slice>)?"
)
"""What stands for one picture in our prompts; its number, where there is one, is the first group."""


@dataclass(frozen=True)
class Asked:
    """One question, as this package sees and answers it."""

    tokens: list[int]
    """The prompt's ids, -1 for each image token."""
    image: Any
    """Image tokens, end to end."""
    logits: Any
    """Behind the prompt."""
    answer: list[int]
    """Ids, the likeliest every time, without the end."""


@torch.inference_mode()
def ask(loaded: LoadedModel, question: str, picture: str, *, max_new_tokens: int, **settings: Any) -> Asked:
    """Ask, with the likeliest token every time."""
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    inputs = loaded.processor.apply_chat_template([{"role": "user", "content": content}], **settings)
    features = loaded.model.get_image_features(inputs["pixel_values"], inputs["tgt_sizes"])
    logits = loaded.model(**inputs).logits[0, -1]
    ends = loaded.end_token_ids()
    options = {"do_sample": False, "max_new_tokens": max_new_tokens}
    (answer,) = generate_answers(loaded.model, inputs, options=options, end_ids=ends)
    tokens = torch.where(inputs["image_mask"][0], -1, inputs["input_ids"][0]).tolist()
    while answer and answer[-1] in ends:
        answer.pop()
    return Asked(tokens, features.flatten(0, -2).float().numpy(), logits.float().numpy(), answer)


def distance(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest value expected."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def contents(records: Iterable[Record]) -> list[list[Any]]:
    """Return id, turns and a digest of the pixels of each record, as JSON holds them."""
    return [[record.id, repr(record.turns), [_pixels(image) for image in record.images]] for record in records]


def _pixels(image: str | bytes) -> str:
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return hashlib.sha256(opened.convert("RGB").tobytes()).hexdigest()
