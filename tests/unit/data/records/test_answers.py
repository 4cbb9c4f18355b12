"""Which answers are asked for: never one of weight 0, and the share of all is said."""

from __future__ import annotations

import pytest

from minicpmv.data.records.answers import LAST, Answers, Share
from minicpmv.data.records.record import Record
from minicpmv.errors import UsageError
from minicpmv.processing.text.turns import Turn


def _turns(*weights: float) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for number, weight in enumerate(weights):
        turns += [Turn("user", (f"q{number}",)), Turn("assistant", (f"a{number}",), weight)]
    return tuple(turns)


def _record(*weights: float, references: tuple[str, ...] = ()) -> Record:
    return Record(source="made.json", index=0, line=1, id=None, turns=_turns(*weights), references=references)


RECORDS = [_record(1, 0, 0.5, references=("r",)), _record(1), _record(1, 1, 0, references=("s",))]


def test_every_answer_that_has_a_weight() -> None:
    asked = Answers(RECORDS, every=True)
    assert [record.turns for record in asked] == [_turns(1), _turns(1, 0, 0.5), _turns(1), _turns(1), _turns(1, 1)]
    assert [asked.fields(number) for number in range(len(asked))] == [
        {"index": 0, "turn": 1, "of_answers": 2},
        {"index": 0, "turn": 2, "of_answers": 2},
        {"index": 1, "turn": 1},
        {"index": 2, "turn": 1, "of_answers": 2},
        {"index": 2, "turn": 2, "of_answers": 2},
    ]
    assert asked.share == Share(asked=5, of=5, of_weight_0=2)
    assert str(asked.share) == "5 of 5 answers (2 more have weight 0 and are only read)"


def test_the_last_answer_that_has_a_weight() -> None:
    asked = Answers(RECORDS)
    assert [record.turns for record in asked] == [_turns(1, 0, 0.5), _turns(1), _turns(1, 1)]
    assert asked.fields(2) == {"index": 2, "of_answers": 2}
    assert asked.share == Share(asked=3, of=5, of_weight_0=2, which=LAST)
    assert str(asked.share).startswith("3 of 5 answers: the last one of each record (2 more")


def test_references_are_of_the_last_turn() -> None:
    assert [record.references for record in Answers(RECORDS, every=True)] == [(), ("r",), (), (), ()]


def test_a_question_at_the_end_is_asked() -> None:
    open_ended = Record(source="made.json", index=0, id=None, turns=_turns(1, 0, 1)[:-1])
    assert list(Answers([open_ended])) == [open_ended]
    every = Answers([open_ended], every=True)
    assert [len(record.turns) for record in every] == [2, 5]
    assert every.fields(1) == {"index": 0, "turn": 2, "of_answers": 2}


def test_nothing_is_said_where_every_answer_is_asked_for() -> None:
    assert str(Answers([_record(1), _record(2)]).share) == ""


def test_a_record_without_an_answer_to_ask_for_is_named() -> None:
    with pytest.raises(UsageError, match=r"^made.json:1 record 0: found the weight 0 for every answer"):
        Answers([_record(1), _record(0, 0)])


def test_an_answer_that_is_judged_bad_is_nothing_to_compare_with() -> None:
    bad = Record(source="made.json", index=3, line=7, id=None, turns=_turns(1), desirable=False)
    assert len(Answers([bad])) == 1
    with pytest.raises(UsageError, match=r"made.json:7 record 3 label: found false"):
        Answers([*RECORDS, bad], as_references=True)
