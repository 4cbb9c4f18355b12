"""Defines the demo's task on films, which no single frame answers: what lights up last, and how many times.

Films are drawn, never recorded: a second shows a coloured disc or nothing. A film ends dark, so its last frame knows no
answer. A shuffled film has lost its answer: all discs of a film are at one place, and a disc that is counted is there
for as many seconds in all, whatever their number. Held-out films differ from all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from minicpmv.data.media.video.container import import_av
from minicpmv.demo.data import DIGIT_WORDS, PICTURE_PIXELS, Split, write_records
from minicpmv.demo.pictures import COLOURS

__all__ = ["FILMS_OF_SPLIT", "FILM_COLOURS", "Disc", "Film", "draw_film", "picture_of", "write_films"]

FILMS_OF_SPLIT: dict[Split, int] = {"train": 1_600, "validation": 200, "heldout": 400}
FILM_COLOURS = {name: COLOURS[name] for name in ("red", "green", "blue", "yellow", "purple")}
COUNTS = DIGIT_WORDS[1:5]
SECONDS = 12
RATE = 4
"""Frames a second; all frames of a second are alike."""

_COUNTED_SECONDS = len(COUNTS)
"""Seconds that are lit in each film whose lights are counted, so that their number is a matter of order alone."""
_DARK = (24, 24, 24)
_DISC_PIXELS = 24


@dataclass(frozen=True, slots=True)
class Disc:
    """Holds what a second shows that is not dark."""

    colour: str
    corner: tuple[int, int]
    """Left and top of it in pixels."""


@dataclass(frozen=True, slots=True)
class Film:
    """Holds a film, by what each of its seconds shows, with a question and its answer."""

    seconds: tuple[Disc | None, ...]
    question: str
    answer: str


def draw_film(split: Split, number: int) -> Film:
    """Make up a film, the same for the same number.

    Those of even numbers ask which of two to four colours came last, the others how many times one colour lit up, one
    to four. Answers take turns, so that a constant one scores exactly 20 % or 25 %.
    """
    rng = Random(f"demo film {split} {number}")
    film = _draw(rng, number)
    while split != "train" and film.seconds in _trained():
        film = _draw(rng, number)
    return film


@cache
def _trained() -> set[tuple[Disc | None, ...]]:
    """Return what the seconds of all films to train on show."""
    return {draw_film("train", number).seconds for number in range(FILMS_OF_SPLIT["train"])}


def _draw(rng: Random, number: int) -> Film:
    turn = number // 2
    colours = list(FILM_COLOURS)
    if number % 2 == 0:
        last = colours[turn % len(colours)]
        shown = [*rng.sample([colour for colour in colours if colour != last], rng.randint(1, 3)), last]
        lengths = [rng.randint(1, 2) for _ in shown]
        return Film(_lay_out(rng, shown, lengths, apart=0), "Which colour lights up last?", last)
    count = turn % len(COUNTS) + 1
    shown = [rng.choice(colours)] * count
    ends = [0, *sorted(rng.sample(range(1, _COUNTED_SECONDS), count - 1)), _COUNTED_SECONDS]
    lengths = [end - start for start, end in pairwise(ends)]
    return Film(_lay_out(rng, shown, lengths, apart=2), "How many times does it light up?", COUNTS[count - 1])


def picture_of(second: Disc | None) -> Image.Image:
    """Draw what a second shows, 56 x 56 pixels."""
    picture = Image.new("RGB", (PICTURE_PIXELS, PICTURE_PIXELS), _DARK)
    if second is not None:
        left, top = second.corner
        box = (left, top, left + _DISC_PIXELS, top + _DISC_PIXELS)
        ImageDraw.Draw(picture).ellipse(box, fill=FILM_COLOURS[second.colour])
    return picture


def _lay_out(rng: Random, colours: Sequence[str], lengths: Sequence[int], *, apart: int) -> tuple[Disc | None, ...]:
    """Put discs into the film in order, each for so many seconds, at least ``apart`` dark ones between two."""
    dark_before = [0] + [apart] * (len(colours) - 1)
    spare = SECONDS - 1 - sum(dark_before) - sum(lengths)  # the last second is dark
    for _ in range(spare):
        place = rng.randint(0, len(colours))
        if place < len(colours):  # otherwise it stays at the end
            dark_before[place] += 1
    left, top = (rng.randint(2, PICTURE_PIXELS - _DISC_PIXELS - 2) for _ in range(2))
    seconds: list[Disc | None] = []
    for colour, length, dark in zip(colours, lengths, dark_before, strict=True):
        seconds += [None] * dark + [Disc(colour, (left, top))] * length
    return tuple(seconds + [None] * (SECONDS - len(seconds)))


def write_films(output: Path, split: Split) -> Path:
    """Write ``films/<split>/film_NNNN.mp4`` and ``<split>.json`` under ``output`` and return the JSON file.

    Raises:
        FilmError: PyAV, which encodes films, is not installed.
    """
    folder = output / "films" / split
    folder.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for number in range(FILMS_OF_SPLIT[split]):
        film = draw_film(split, number)
        file = folder / f"film_{number:04d}.mp4"
        _encode(film, file)
        turns = [{"role": "user", "content": f"<video>\n{film.question}"}]
        turns += [{"role": "assistant", "content": film.answer}]
        records.append(
            {"id": f"{split}-{number:04d}", "video": file.relative_to(output).as_posix(), "conversations": turns}
        )
    return write_records(output, split, records)


def _encode(film: Film, file: Path) -> None:
    """Write H.264 in MP4, in one thread: almost always the same bytes for the same encoder."""
    av = import_av(str(file))
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"threads": "1", "preset": "veryfast"})
        stream.width = stream.height = PICTURE_PIXELS
        stream.pix_fmt = "yuv420p"
        for second in film.seconds:
            frame = av.VideoFrame.from_image(picture_of(second)).reformat(format="yuv420p")
            for _ in range(RATE):
                frame.pts = None
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
