"""Makes a strip of the frames that the model is shown of a film, each with its time and the block that it fills.

Which frames these are is decided in ``processing.films``; nothing is planned here.
"""

from __future__ import annotations

from dataclasses import dataclass

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.opened_films import ReadFilm
from minicpmv.errors import DataError, Problem
from minicpmv.pages.images import data_url, shrink
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.wording import counted

__all__ = ["Film", "Frame", "describe_frames", "show_film"]

MAX_FRAME_PIXELS = 160
"""Longest side of an embedded frame."""
MAX_FRAMES = 96
"""Most frames of a strip: with them a page stays below a megabyte for each film."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Holds one frame of a strip."""

    url: str
    """``data:`` URL, shrunk to at most 160 pixels a side."""
    second: float
    block: int
    """Number of the block that it fills, or shares, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Holds one film of a record."""

    number: int
    """Number from 1, in the order of the text."""
    name: str
    duration: float
    """Seconds."""
    frames: tuple[Frame, ...]
    num_hidden: int
    """Frames that the model is shown and the strip leaves out, evenly."""
    plan: FilmPlan
    slice_plan: SlicePlan
    """How each frame is cut."""
    tokens_of_block: int
    """Tokens of each block, without tags."""

    @property
    def num_tokens(self) -> int:
        """Return the tokens of all its blocks, without tags."""
        return self.plan.num_blocks * self.tokens_of_block

    def frame_name(self, first: int, number: int) -> str:
        """Name frames that share a block, by their numbers from 1 and their times.

        Args:
            first: Position of the first of them.
            number: How many they are.
        """
        seconds = ", ".join(f"{time:.4g}" for time in self.plan.times[first : first + number])
        which = f"frame {first + 1}" if number == 1 else f"frames {first + 1} to {first + number}"
        return f"film {self.number} {which} at {seconds} s"


def show_film(
    opened: ReadFilm, plan: FilmPlan, slice_plan: SlicePlan, *, number: int, tokens_of_block: int, where: str
) -> Film:
    """Decode the frames that a model is shown of a film, and embed them.

    Args:
        opened: The film.
        plan: Which frames.
        slice_plan: How each is cut.
        number: From 1, in the order of the text.
        tokens_of_block: Tokens of each block.
        where: Place in the data, for a message.

    Raises:
        DataError: It cannot be decoded.
    """
    shown = plan.thin(MAX_FRAMES)
    try:
        urls = opened.read(shown.times, lambda frame: data_url(shrink(frame, MAX_FRAME_PIXELS)))
    except FilmError as error:
        found = f"{error.found} in {error.where!r}, whose header looked sound"
        raise DataError([Problem("D202", where, found, error.expected, error.fix)]) from error
    block_of = {time: position // plan.group + 1 for position, time in enumerate(plan.times)}
    return Film(
        number=number,
        name=opened.film.name,
        duration=opened.facts.duration,
        frames=tuple(
            Frame(url=url, second=time, block=block_of[time]) for url, time in zip(urls, shown.times, strict=True)
        ),
        num_hidden=len(plan.times) - len(shown.times),
        plan=plan,
        slice_plan=slice_plan,
        tokens_of_block=tokens_of_block,
    )


def describe_frames(film: Film) -> str:
    """Word how many frames a film shows, in how many blocks."""
    text = counted(len(film.plan.times), "frame")
    if film.plan.group > 1:
        text += f" in {counted(film.plan.num_blocks, 'block')} of up to {film.plan.group}"
    return text
