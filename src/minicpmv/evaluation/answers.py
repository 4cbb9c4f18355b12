"""Lets a model answer records whose answers are known, and counts how many it gives word for word.

Each record's last answer is asked for, given everything before it. What is asked is rendered by the same processor as
in training; nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from minicpmv.data.records import Record
from minicpmv.inference.generation import GenerationSettings, answer_batch
from minicpmv.inference.loading import LoadedModel
from minicpmv.processing.chat import ImageRef, Turn
from minicpmv.processing.images import load_image
from minicpmv.processing.thinking import split_thinking

__all__ = ["Prediction", "exact_match", "predict"]

_GREY = (128, 128, 128)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One record's answer beside the known one."""

    id: str | int | None
    question: str
    """Text of the last question, without its images."""
    answer: str
    """What the model said, its thoughts included."""
    reference: str
    """What the record says."""

    @property
    def is_exact(self) -> bool:
        """Whether both agree but for thoughts before, and white space around them."""
        return _said(self.answer) == _said(self.reference)


def predict(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    batch_size: int = 16,
    settings: GenerationSettings | None = None,
    blank_images: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Prediction]:
    """Answer every record, in the order given.

    Args:
        loaded: Who answers.
        records: With an assistant turn at the end of each, which is what is asked for.
        batch_size: Records answered at once.
        settings: How tokens are chosen; greedy, up to 64 of them, if not given.
        blank_images: Show a grey picture of the same size instead of each image: what the model answers unseeing.
        on_progress: Called with the number of records answered so far.

    Raises:
        ImageError: A picture cannot be read.
        UsageError: Thinking is asked of a version that cannot.
    """
    settings = settings or GenerationSettings(max_new_tokens=64)
    done = 0
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        answers = answer_batch(
            loaded, [_messages(record, blank_images=blank_images) for record in batch], settings=settings
        )
        for record, said in zip(batch, answers, strict=True):
            yield Prediction(
                id=record.id,
                question=_text(record.turns[-2]),
                answer=said,
                reference=_text(record.turns[-1]),
            )
        done += len(batch)
        if on_progress is not None:
            on_progress(done)


def exact_match(predictions: Sequence[Prediction]) -> float:
    """Share of predictions that say what their record says, 0 to 1; 0 for none."""
    return sum(prediction.is_exact for prediction in predictions) / max(len(predictions), 1)


def _messages(record: Record, *, blank_images: bool) -> list[dict[str, Any]]:
    def part(value: str | ImageRef) -> dict[str, Any]:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        picture = load_image(record.images[value.index])
        if blank_images:
            picture = Image.new("RGB", picture.size, _GREY)
        return {"type": "image", "image": picture}

    return [{"role": turn.role, "content": [part(value) for value in turn.content]} for turn in record.turns[:-1]]


def _text(turn: Turn) -> str:
    return "\n".join(part for part in turn.content if isinstance(part, str))


def _said(text: str) -> str:
    return split_thinking(text).text.strip()
