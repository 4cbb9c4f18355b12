"""Reads records without messages: a question and an answer, as in Alpaca, ms-swift and VQA sets.

They become messages. How a record was read is reported once per file, because it is an interpretation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from minicpmv.data.records.record import RawRecord, Unread, quote
from minicpmv.errors import Problem

__all__ = ["ANSWERS", "QUESTIONS", "Pair", "is_pair", "read_pair"]

QUESTIONS = ("instruction", "query", "question", "prompt")
ANSWERS = ("output", "response", "answer", "multiple_choice_answer", "answers", "completion")
_AGREED = ("answer", "multiple_choice_answer")
"""Keys of the agreed answer in a record that holds those of all annotators under ``answers``."""


@dataclass(slots=True)
class Pair:
    """Holds a record's conversation, and its original places."""

    talk: list[object] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Field of each message's text."""
    taken: list[str] = field(default_factory=list)
    """Keys that were read."""
    references: list[object] | None = None
    """Several answers to one question."""
    reading: str = ""
    unread: list[Unread] = field(default_factory=list)
    faults: list[Problem] = field(default_factory=list)


def is_pair(fields: Mapping[str, object]) -> bool:
    """Return whether a record without messages has a question; torchtune's is ``input``, next to an answer."""
    return any(isinstance(fields.get(key), str) for key in QUESTIONS) or (
        isinstance(fields.get("input"), str) and any(key in fields for key in ANSWERS)
    )


def read_pair(fields: Mapping[str, object], record: RawRecord) -> Pair:
    """Read a record for which ``is_pair`` holds.

    Args:
        fields: Fields of the record, without null.
        record: The record, to name places.
    """
    pair = Pair()
    questions = [key for key in QUESTIONS if key in fields] or ["input"]
    answers = [key for key in ANSWERS if key in fields]
    if len(answers) == 2 and answers[0] in _AGREED and answers[1] == "answers":
        answers.pop()
    for keys, what in ((questions, "question"), (answers, "answer")):
        if len(keys) > 1:
            found, fix = (
                f"the keys {' and '.join(map(repr, keys))}",
                f"keep the {what} that is meant, and remove the other",
            )
            pair.faults.append(Problem("D117", record.where(), found, f"one {what}", fix))
    if pair.faults:
        return pair
    pair.taken = [*questions, *answers]
    _read_history(pair, fields, record)
    question, names = fields[questions[0]], f"{questions[0]!r}"
    if questions[0] == "instruction" and "input" in fields:
        pair.taken.append("input")
        names = "'instruction' and, on the next line, 'input'"
        if isinstance(question, str) and isinstance(fields["input"], str):
            question = "\n".join(text for text in (question, fields["input"]) if text)
        else:
            question = fields["input"]
    _say(pair, "user", question, questions[0])
    reading = f"{names} as the question"
    if answers:
        reading += _read_answer(pair, fields, answers[0], record)
    pair.reading = reading + (", after the turns of 'history'" if "history" in pair.taken else "")
    return pair


def _say(pair: Pair, role: str, text: object, place: str) -> None:
    pair.talk.append({"role": role, "content": text})
    pair.texts.append(place)


def _read_history(pair: Pair, fields: Mapping[str, object], record: RawRecord) -> None:
    """Read earlier turns: pairs of question and answer."""
    history = fields.get("history")
    if history is None:
        return
    pair.taken.append("history")
    entries = cast("list[object]", history) if isinstance(history, list) else [history]
    for number, entry in enumerate(entries):
        if entry is None:
            continue
        turns = cast("list[object]", entry) if isinstance(entry, list) else []
        if len(turns) != 2 or not isinstance(history, list):
            place = record.where(f"history[{number}]" if isinstance(history, list) else "history")
            fix = "write [[question, answer], ...], or remove the key"
            pair.faults.append(Problem("D115", place, quote(entry), "a question and its answer", fix))
            continue
        for role, text, index in zip(("user", "assistant"), turns, (0, 1), strict=True):
            _say(pair, role, text, f"history[{number}][{index}]")


def _read_answer(pair: Pair, fields: Mapping[str, object], key: str, record: RawRecord) -> str:
    """Read the answer; if there are several, the first is learnt and evaluation accepts all."""
    answer = fields[key]
    listed = key if isinstance(answer, list) else "answers" if key in _AGREED and "answers" in fields else None
    several = cast("list[object]", fields[listed]) if listed and isinstance(fields[listed], list) else []
    if not listed or not several:
        _say(pair, "assistant", answer, key)
        return f", {key!r} as the answer"
    if "references" in fields:
        found, fix = f"the keys 'references' and {listed!r}", "remove one of them"
        pair.faults.append(Problem("D117", record.where(), found, "one list of accepted answers", fix))
    pair.references = [_text_of(each, f"{listed}[{number}]", pair.unread) for number, each in enumerate(several)]
    if listed != key:
        pair.taken.append(listed)
        _say(pair, "assistant", answer, key)
        return f", {key!r} as the answer, {listed!r} as what evaluation accepts"
    _say(pair, "assistant", pair.references[0], f"{key}[0]")
    return f", the first of {key!r} as the answer, all of them as what evaluation accepts"


def _text_of(answer: object, place: str, unread: list[Unread]) -> object:
    """Return the text of an answer; VQA's answers are objects that hold it under ``answer``."""
    if not isinstance(answer, dict) or "answer" not in answer:
        return answer
    fields = cast("dict[str, object]", answer)
    rest = ((key, value) for key, value in fields.items() if key != "answer" and value is not None)
    unread += [Unread("part", place, key, value) for key, value in rest]
    return fields["answer"]
