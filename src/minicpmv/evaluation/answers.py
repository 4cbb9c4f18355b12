"""Lets a model answer records whose answers are known, and counts how many it gives word for word.

Each record's last answer is asked for, given everything before it; nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from minicpmv.data.records import Record
from minicpmv.inference import predicting
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import LoadedModel
from minicpmv.inference.predicting import Prediction

__all__ = ["Prediction", "exact_match", "predict"]


def predict(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    batch_size: int = 16,
    settings: GenerationSettings | None = None,
    blank_images: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Prediction]:
    """Answer every record as ``inference.predicting.predict`` does, and yield the answers in the order of the records.

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
    answered: list[Prediction] = []
    for prediction in predicting.predict(
        loaded, records, settings=settings, batch_size=batch_size, blank_images=blank_images
    ):
        answered.append(prediction)
        if on_progress is not None:
            on_progress(len(answered))
    yield from sorted(answered, key=lambda prediction: prediction.index)


def exact_match(predictions: Sequence[Prediction]) -> float:
    """Share of predictions that say what their record says, 0 to 1; 0 for none."""
    return sum(prediction.is_exact for prediction in predictions) / max(len(predictions), 1)
