"""Notes what is known of an answer: what the model saw and how fast it wrote, and what was expected of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from minicpmv.evaluation.metrics.base import Sample
from minicpmv.evaluation.metrics.matches import ExactMatch
from minicpmv.processing.films.shown import OpenedFilm
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.thinking import without_thinking
from minicpmv.processing.text.turns import FilmRef, ImageRef, Turn
from minicpmv.wording import counted, format_seconds

__all__ = ["Clock", "Note", "describe_files", "is_right"]

_MOST_JUDGED = 60
"""Characters. A longer expected answer, or one of several lines, is seldom given word for word."""


@dataclass(slots=True)
class Clock:
    """Times an answer, without the turns of others that write at once."""

    num_tokens: int = 0
    """Tokens so far, the end of the answer included."""
    first_seconds: float = 0.0
    """Time to the first token, in which the prompt is read."""
    later_seconds: float = 0.0
    """Time of all others."""
    _since: float = field(default_factory=time.perf_counter)

    def stop(self) -> None:
        """Count a token that has just been written."""
        seconds = time.perf_counter() - self._since
        if self.num_tokens:
            self.later_seconds += seconds
        else:
            self.first_seconds = seconds
        self.num_tokens += 1

    def resume(self) -> None:
        """Begin with the next token."""
        self._since = time.perf_counter()

    def __str__(self) -> str:
        """Word it.

        >>> str(Clock(num_tokens=41, first_seconds=0.5, later_seconds=2.0))
        'answer: 41 tokens, the first after 0.5 s, then 20.0 tokens/s'
        """
        if not self.num_tokens:
            return "answer: no token"
        rate = f", then {(self.num_tokens - 1) / self.later_seconds:,.1f} tokens/s" if self.later_seconds else ""
        return (
            f"answer: {counted(self.num_tokens, 'token')}, the first after {format_seconds(self.first_seconds)}{rate}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Holds what is known of one answer."""

    shown: tuple[str, ...]
    """Each picture and film of the question, described."""
    clock: Clock
    expected: tuple[str, ...] = ()
    """Accepted answers, if the question is a record's."""


def describe_files(
    processor: MiniCPMVProcessor,
    images: Sequence[str],
    films: Sequence[OpenedFilm],
    *,
    max_slice_nums: int | None,
) -> Iterator[str]:
    """Describe pictures and films as the model gets them: size, tiles and tokens.

    Args:
        processor: The model's.
        images: Image files that could be read.
        films: Opened films.
        max_slice_nums: Most tiles of a picture; by default the checkpoint's number.
    """
    for file in images:
        with Image.open(file) as image:
            size = image.size
        grid = processor.image_processor.plan(size, max_slice_nums).grid
        tiles = "no tiles" if grid is None else f"{grid[0]} × {grid[1]} tiles and the whole"
        sample = processor.encode_text([Turn("user", (ImageRef(0),))], [size], max_slice_nums=max_slice_nums)
        yield f"{size[0]} × {size[1]} px: {tiles}, {counted(sum(sample.image_mask), 'image token')}"
    for film in films:
        plan = processor.plan_film(film.facts, film.request)
        sample = processor.encode_text([Turn("user", (FilmRef(0),))], films=[plan])
        frames = f"{counted(len(plan.times), 'frame')} of {plan.size[0]} × {plan.size[1]} px"
        yield f"film: {frames}, {counted(sum(sample.image_mask), 'image token')}"


def is_right(note: Note, answer: str) -> bool | None:
    """Return whether an answer is exactly an expected one; None if that is too long to be judged so."""
    if not note.expected or any(len(text) > _MOST_JUDGED or "\n" in text for text in note.expected):
        return None
    return bool(ExactMatch().rate(Sample(answer=without_thinking(answer), references=note.expected)))
