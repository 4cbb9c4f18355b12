"""Reads records without messages: a question and an answer, as in Alpaca, ms-swift and VQA sets.

They become messages. How a record was read is reported once per file, because it is an interpretation.

It also brings a better and a worse answer, in the forms of other tools, to a conversation and ``rejected``: RLHF-V's
JSON text, TRL's lists of messages, LLaMA-Factory's turns, ms-swift's answers. That only moves what is there.

In a row of a table a question or an answer that is a number or a date is spelled out: in a CSV file every cell is text,
where a Parquet file or a pandas table holds values. In JSON a number stays one: the author of a record chose its type.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from minicpmv.data.records.formats.containers.class_labels import UnnamedClass
from minicpmv.data.records.formats.containers.json_list import mark_like
from minicpmv.data.records.record import SHOWN, RawRecord, Unread, quote
from minicpmv.errors import Problem

__all__ = [
    "ANSWERS",
    "CHOICES",
    "PREFERENCE_KEYS",
    "QUESTIONS",
    "TEXTS",
    "Pair",
    "find_lone_answer",
    "find_question",
    "is_pair",
    "read_pair",
    "spell_values",
    "unify_preference",
]

QUESTIONS = ("instruction", "query", "question", "prompt")
ANSWERS = ("output", "response", "answer", "multiple_choice_answer", "answers", "completion", "chosen")
_AGREED = ("answer", "multiple_choice_answer")
"""Keys of the agreed answer in a record that holds those of all annotators under ``answers``."""
PREFERENCE_KEYS = ("chosen", "rejected_response", "rejected_messages", "kto_tag")
"""Keys of other tools that are read here."""
_OF_RLHF_V = frozenset(("image", "image_path", "ds_name", "origin_dataset", "chosen", "rejected"))
"""Columns of RLHF-V's and RLAIF-V's sets."""
_TEXT_OF_PAIR = frozenset(("question", "chosen", "rejected"))

CHOICES = frozenset(("choices", "options"))
"""Keys under which other tools list answers to choose from; the answer is then the index of one."""
_CLASS = "label"
TEXTS = (*QUESTIONS, "input", *ANSWERS, "rejected", "rejected_response", "system", "system_prompt")
"""Keys whose value in a row is text, whatever the type of the column."""


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


def unify_preference(fields: dict[str, object]) -> dict[str, object]:
    """Return a record's fields with a pair of answers in our form; the fields themselves where there is none.

    A pair of strings next to a question stays: ``chosen`` is an answer that ``pairs`` reads.

    Args:
        fields: The fields as written, without null.
    """
    made = _open_text(fields)
    talk_key = next((key for key in ("conversations", "messages") if isinstance(made.get(key), list)), None)
    if talk_key is not None:
        made = _of_conversation(made, talk_key)
    elif isinstance(made.get("chosen"), list) and isinstance(made.get("rejected"), list):
        made = _of_lists(made)
    if made.keys() >= _OF_RLHF_V:  # the picture itself is there; this is its place in the set
        made = {key: value for key, value in made.items() if key != "image_path"}
    return made if made is fields else mark_like(fields, made)


def _open_text(fields: dict[str, object]) -> dict[str, object]:
    """Open RLHF-V's ``text``: question, chosen and rejected as one JSON object, mostly spelled out as a text."""
    written = fields.get("text")
    if isinstance(written, str) and written.lstrip().startswith("{"):
        try:
            written = json.loads(written)
        except ValueError:
            return fields
    if not isinstance(written, dict) or not _TEXT_OF_PAIR >= cast("dict[str, object]", written).keys() >= {"chosen"}:
        return fields
    if _TEXT_OF_PAIR & fields.keys():
        return fields
    return {key: value for key, value in fields.items() if key != "text"} | cast("dict[str, object]", written)


def _of_conversation(fields: dict[str, object], talk_key: str) -> dict[str, object]:
    """Read what is next to a conversation: LLaMA-Factory's turns, ms-swift's keys."""
    made, talk = dict(fields), cast("list[object]", fields[talk_key])
    if isinstance(made.get("kto_tag"), bool) and "label" not in made:
        made["label"] = made.pop("kto_tag")
    if "chosen" in made and "rejected" in made and talk and not _is_answer(talk[-1]):
        made[talk_key] = [*talk, _turn_like(talk[-1], made.pop("chosen"))]
    if "rejected" in made:
        return made
    if isinstance(made.get("rejected_response"), str | list):
        made["rejected"] = made.pop("rejected_response")
    elif isinstance(whole := made.get("rejected_messages"), list):
        rest = _beyond(talk, cast("list[object]", whole))
        if rest is not None:
            made["rejected"] = rest
            del made["rejected_messages"]
    return made


def _of_lists(fields: dict[str, object]) -> dict[str, object]:
    """Read TRL's two lists of messages: answers behind ``prompt``, or two conversations with a common beginning."""
    made = dict(fields)
    chosen, rejected = cast("list[object]", made["chosen"]), cast("list[object]", made["rejected"])
    if isinstance(made.get("prompt"), list):
        made["completion"] = made.pop("chosen")
        return made
    rest = _beyond(chosen, rejected)
    if rest is None or "prompt" in made:
        return fields
    del made["chosen"]
    return made | {"messages": chosen, "rejected": rest}


def _beyond(talk: list[object], other: list[object]) -> list[object] | None:
    """Return the messages of another conversation in place of the answer of this one; None if questions differ."""
    same = 0
    while same < min(len(talk), len(other)) and talk[same] == other[same]:
        same += 1
    while same and _is_answer(other[same - 1]):  # equal answers, or turns of one answer: the check names them
        same -= 1
    is_last = all(_role(message) != "user" for message in (*talk[same:], *other[same:]))
    return other[same:] if is_last else None


def _role(message: object) -> object:
    given = cast("Mapping[str, Any]", message) if isinstance(message, dict) else {}
    role = given.get("role", given.get("from"))
    return {"human": "user", "gpt": "assistant"}.get(role, role) if isinstance(role, str) else role


def _is_answer(message: object) -> bool:
    return _role(message) == "assistant"


def _turn_like(last: object, answer: object) -> object:
    """Return an answer as a turn of a conversation's style, where it is a text alone."""
    if not isinstance(answer, str):
        return answer
    is_sharegpt = isinstance(last, dict) and "from" in last
    return {"from": "gpt", "value": answer} if is_sharegpt else {"role": "assistant", "content": answer}


def spell_values(row: dict[str, object]) -> dict[str, object]:
    """Return a row whose question and answer are text; the row itself where they are already.

    A row that lists choices stays: its number is the place of a choice, and no answer.

    >>> spell_values({"question": "How many?", "answer": 3, "id": 7})
    {'question': 'How many?', 'answer': '3', 'id': 7}
    """
    if not CHOICES.isdisjoint(row):
        return row
    spelled = {key: _spell(row[key]) for key in TEXTS if key in row}
    return row if all(row[key] is value for key, value in spelled.items()) else row | spelled


def _spell(value: object) -> object:
    """Spell out a number, boolean, date or time, or those in a list; anything else stays, as infinity does.

    Where the type of a column decides the digits, ``columns`` has spelled its values before.
    """
    if isinstance(value, list):
        entries = cast("list[object]", value)
        spelled = [_spell(each) for each in entries]
        return value if all(one is other for one, other in zip(spelled, entries, strict=True)) else spelled
    if isinstance(value, UnnamedClass):
        return value
    if isinstance(value, bool | int | datetime.date | datetime.time):  # a date may have a time, too
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else value  # with no exponent, unlike ``str``
    return repr(value) if isinstance(value, float) and math.isfinite(value) else value


def find_question(fields: Mapping[str, object]) -> str | None:
    """Return the key that was probably meant as the question next to an answer; None unless just one may be.

    >>> find_question({"id": "7", "frage": "What?", "answer": "This.", "image": "a.png"})
    'frage'
    """
    texts = list(_other_texts(fields))
    return texts[0] if len(texts) == 1 and any(key in fields for key in ANSWERS) else None


def find_lone_answer(fields: Mapping[str, object]) -> str | None:
    """Return the key of the answer in a record that has no key that may be its question; None if it has one.

    Image classification has pictures and their classes alone. A class is often called ``label``.

    >>> find_lone_answer({"id": "7", "image": "a.png", "label": "cat"})
    'label'
    """
    answer = next((key for key in (*ANSWERS, _CLASS) if key in fields), None)
    return answer if not any(True for _ in _other_texts(fields)) else None


def _other_texts(fields: Mapping[str, object]) -> Iterator[str]:
    """Yield each key that nothing reads and that holds a text."""
    known = {"id", *SHOWN, "references", "rejected", "system", "system_prompt", *ANSWERS, _CLASS}
    return (key for key, value in fields.items() if key not in known and isinstance(value, str))
