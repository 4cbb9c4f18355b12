"""Makes the base model's training data: questions about generated pictures and clothing, and some text-only ones.

It is deterministic for a seed. Every answer word that the demo's own task needs (``zero`` to ``nine``) occurs, as a
count; the task's question and its pictures do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from minicpmv.demo.pictures import (
    CLOTHING,
    COLOURS,
    LETTERS,
    SHAPES,
    Picture,
    draw_clothing,
    draw_letter,
    draw_line,
    draw_many,
    draw_pair,
    draw_shape,
)

__all__ = ["conversations", "write_mixture"]

_KIND_WORDS = {
    "shape": "a shape",
    "shapes": "shapes",
    "letter": "a letter",
    "clothing": "clothing",
    "line": "a line",
    "pair": "two pictures",
}

_QUESTIONS: dict[str, tuple[str, ...]] = {
    "kind": ("What is in the picture?", "What does the picture show?"),
    "shape": ("What shape is it?", "Which shape is it?", "Name the shape."),
    "colour": ("What colour is it?", "Which colour is it?"),
    "background": ("What colour is the background?", "Which colour is behind it?"),
    "place": ("Where is it?", "Where is the shape?"),
    "size": ("Is it big or small?",),
    "count": ("How many shapes are there?", "How many are there?", "Count the shapes."),
    "letter": ("Which letter is it?", "What letter is it?", "Read the letter."),
    "clothing": ("Which piece of clothing is it?", "What clothing is it?", "Name the clothing."),
    "form": ("What kind of line is it?", "Is the line straight, curved or closed?"),
    "direction": ("Which way does the line go?",),
    "description": ("Describe the picture.", "Describe the image."),
    "left": ("What is on the left?",),
    "right": ("What is on the right?",),
}
_YES_NO: dict[str, tuple[str, tuple[str, ...]]] = {
    "shape": ("Is it a {}?", SHAPES),
    "colour": ("Is it {}?", tuple(COLOURS)),
    "letter": ("Is it the letter {}?", tuple(LETTERS)),
    "clothing": ("Is it a {}?", CLOTHING),
}
"""Yes-or-no questions about one property, with the values that may be asked for."""

_TEXTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hello!", "Hi", "Good morning"), "Hello! Show me a picture and ask about it."),
    (("Who are you?", "What are you?"), "I am a small demo model. I answer short questions about small pictures."),
    (("What can you do?", "Help"), "I can name shapes, colours, letters and clothing, and count to nine."),
    (("Thank you", "Thanks", "Thank you!"), "You are welcome."),
    (("Goodbye", "Bye"), "Goodbye!"),
    (("Are you a useful assistant?",), "No. I am only a small model for trying the tool."),
    (("Name a colour.",), "red"),
    (("Name a shape.",), "circle"),
    (("Count to nine.",), "zero one two three four five six seven eight nine"),
)

_DRAWING: tuple[tuple[float, Callable[[Random], Picture]], ...] = (
    (0.16, draw_shape),
    (0.20, draw_many),
    (0.28, draw_letter),
    (0.20, draw_clothing),
    (0.11, draw_line),
    (0.03, draw_pair),
)
_TEXT_SHARE = 0.02


def _ask(rng: Random, picture: Picture) -> list[tuple[str, str]]:
    """Return up to three different questions about a picture with their answers, mostly its main property first."""
    answers = {"kind": _KIND_WORDS[picture.kind], **picture.facts}
    if picture.kind == "pair":
        answers |= {side: _KIND_WORDS[picture.facts[side]] for side in ("left", "right")}
    main = {"shapes": "count", "letter": "letter", "clothing": "clothing", "line": "form"}.get(picture.kind)
    names = rng.sample(list(answers), min(len(answers), 3))
    if main is not None and rng.random() < 0.7:
        names = [main, *(name for name in names if name != main)][:3]
    return [_phrase(rng, name, answers[name]) for name in names]


def _phrase(rng: Random, name: str, answer: str) -> tuple[str, str]:
    if name in _YES_NO and rng.random() < 0.12:
        wording, values = _YES_NO[name]
        asked = answer if rng.random() < 0.5 else rng.choice(values)
        return wording.format(asked), "yes" if asked == answer else "no"
    return rng.choice(_QUESTIONS[name]), answer


def conversations(seed: int, count: int) -> Iterator[tuple[Picture | None, list[tuple[str, str]]]]:
    """Yield ``count`` conversations: a picture, or None for text only, and questions with answers."""
    shares = [share for share, _ in _DRAWING]
    for index in range(count):
        rng = Random(f"{seed} {index}")
        if rng.random() < _TEXT_SHARE:
            questions, answer = rng.choice(_TEXTS)
            yield None, [(rng.choice(questions), answer)]
            continue
        _, draw = rng.choices(_DRAWING, shares)[0]
        picture = draw(rng)
        yield picture, _ask(rng, picture)


def write_mixture(output: Path, name: str, *, seed: int, count: int) -> Path:
    """Write ``images/<name>/NNNNNN.png`` and ``<name>.json`` in the upstream data format; return the JSON file."""
    folder = output / "images" / name
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for index, (picture, exchanges) in enumerate(conversations(seed, count)):
        record: dict[str, Any] = {"id": f"{name}-{index}"}
        if picture is not None:
            file = folder / f"{index:06d}.png"
            picture.image.save(file)
            record["image"] = file.relative_to(output).as_posix()
        turns = []
        for question, answer in exchanges:
            text = f"<image>\n{question}" if picture is not None and not turns else question
            turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        records.append(record | {"conversations": turns})
    data_file = output / f"{name}.json"
    data_file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return data_file
