"""Judges what a record says of better and worse answers, and whether a run reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from minicpmv.data.checks.placeholders import whole_answer
from minicpmv.data.records.record import Kind, RawRecord, quote
from minicpmv.errors import Problem
from minicpmv.processing.text.chat import left_out
from minicpmv.processing.text.turns import Turn
from minicpmv.releases.table import Version
from minicpmv.wording import counted

__all__ = ["check_kind", "check_one_kind", "check_rejected", "kind_of"]

_HELD: dict[Kind, str] = {
    "conversation": "neither 'rejected' nor 'label'",
    "pair": "a rejected answer",
    "answer": "a judgement of the answer",
}
_COUNTED: dict[Kind, str] = {"conversation": "plain conversation", "pair": "pair", "answer": "judged answer"}
_READ: dict[Kind, str] = {
    "conversation": "neither 'rejected' nor 'label': --objective sft learns every answer",
    "pair": "'rejected', an answer worse than the conversation's last",
    "answer": "'label', true or false: whether the last answer is good",
}
_FIX: dict[Kind, str] = {
    "conversation": "train with --objective dpo, or remove the key to learn the answer",
    "pair": "add it, remove the record, or train with --objective sft",
    "answer": "add it, remove the record, or train with another --preference_loss",
}
_FIX_OF_JUDGED = "train with --objective dpo --preference_loss apo_zero_unpaired, or remove the key"


def check_kind(record: RawRecord, fields: Mapping[str, Any], kind: Kind | None) -> Iterator[Problem]:
    """Yield a problem where a run would not read what a record says of its answers, or needs what it does not say."""
    if "rejected" in fields and "label" in fields:
        fix = "keep 'rejected' to compare the two answers, or 'label' to judge the last one by itself"
        yield Problem("D181", record.where("label"), "'rejected' and 'label'", "one of them", fix)
        return
    held = kind_of(fields)
    if kind in (None, held):
        return
    place = {"conversation": "", "pair": "rejected", "answer": "label"}[held]
    fix = _FIX_OF_JUDGED if held == "answer" else _FIX[kind]
    yield Problem("D181", record.where(place), _HELD[held], _READ[kind], fix)


def kind_of(fields: Mapping[str, Any]) -> Kind:
    """Return what a record, in our form, says of its answers."""
    return "pair" if "rejected" in fields else "answer" if "label" in fields else "conversation"


def check_one_kind(path: str, kinds: Mapping[Kind, int]) -> Iterator[Problem]:
    """Yield a problem if no run can read all records of a file.

    Args:
        path: The file or folder, as the user wrote it.
        kinds: Number of its records of each kind.
    """
    held = [counted(number, _COUNTED[kind]) for kind, number in kinds.items() if number]
    if len(held) > 1:
        found = " and ".join(held)
        fix = "write the records of each kind to a file of its own"
        yield Problem("D181", path, found, "one kind of record: a run reads one", fix)


def check_rejected(
    record: RawRecord, rejected: object, messages: Sequence[Mapping[str, Any]], version: Version | None
) -> Iterator[Problem]:
    """Yield at most one problem of the turns that stand instead of a conversation's last answer.

    Args:
        record: The record.
        rejected: Its value, in our form.
        messages: The sound conversation, which ends in the better answer.
        version: The model to be trained, if known.
    """
    found = _find_fault(rejected)
    if found is not None:
        place, what, expected = found
        fix = "write the worse answer as text, or as messages of the assistant (and of its tools)"
        yield Problem("D180", record.where(f"rejected{place}"), what, expected, fix)
        return
    turns = cast("list[dict[str, Any]]", rejected)
    last = messages[-1]
    if len(turns) == 1 and _said(turns[0]) == _said(last):
        what, fix = "the same answer twice", "remove the record: there is nothing to tell apart"
        yield Problem("D180", record.where("rejected"), what, "another answer than the conversation's last", fix)
        return
    weight = last.get("weight", 1)
    if not weight or any(not turn.get("weight", 1) for turn in turns if turn["role"] == "assistant"):
        fix = "remove the weight: both answers are compared"
        yield Problem("D180", record.where("rejected"), "an answer of weight 0", "answers that count", fix)
        return
    if version is not None:
        written = [Turn("user", ("?",)), *(Turn(turn["role"], (whole_answer(turn),)) for turn in turns)]
        for left in left_out(written, version):
            yield Problem(
                "D152", record.where(f"rejected[{left.turn - 1}].content"), left.found, left.expected, left.fix
            )


def _said(message: Mapping[str, Any]) -> tuple[str, object]:
    return whole_answer(message), message.get("tool_calls")


def _find_fault(rejected: object) -> tuple[str, str, str] | None:
    """Return place, what was found and what was expected of the first fault in the messages."""
    if not isinstance(rejected, list) or not rejected:
        return "", "no answer" if not rejected else quote(rejected), "an answer"
    allowed = {"assistant"}
    for number, message in enumerate(cast("list[object]", rejected)):
        place = f"[{number}]"
        if not isinstance(message, dict):
            return place, quote(message), "a message, {'role': 'assistant', 'content': ...}"
        given = cast("dict[str, Any]", message)
        role, text = given.get("role"), given.get("content")
        if role not in allowed:
            expected = " or ".join(map(repr, sorted(allowed))) or "the end: nobody speaks behind the answer"
            return f"{place}.role", f"the role {quote(role)}", expected
        if not isinstance(text, str):
            return f"{place}.content", quote(text), "text"
        if not text.strip() and role == "assistant" and not given.get("tool_calls"):
            return f"{place}.content", "white space only" if text else "nothing", "an answer"
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            return f"{place}.content", quote(text), "characters that UTF-8 can write, without NUL"
        allowed = {"assistant", "tool"} if role == "tool" else {"tool"} if given.get("tool_calls") else set[str]()
    if cast("dict[str, Any]", rejected[-1])["role"] == "tool":
        return "", "a tool's result at the end", "an answer at the end"
    return None
