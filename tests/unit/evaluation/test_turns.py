from __future__ import annotations

from minicpmv.data.records import Record
from minicpmv.evaluation.turns import Answers, Counted, count_answers
from minicpmv.processing.chat import Turn


def _turns(*weights: float) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for number, weight in enumerate(weights):
        turns += [Turn("user", (f"q{number}",)), Turn("assistant", (f"a{number}",), weight)]
    return tuple(turns)


def _record(*weights: float, references: tuple[str, ...] = ()) -> Record:
    return Record(source="made.json", index=0, line=1, id=None, turns=_turns(*weights), references=references)


RECORDS = [_record(1, 0, 0.5, references=("r",)), _record(0), _record(1, 1, 0)]


def test_an_answer_of_weight_0_is_read_and_not_asked_for() -> None:
    asked = Answers(RECORDS)
    assert [record.turns for record in asked] == [_turns(1), _turns(1, 0, 0.5), _turns(1), _turns(1, 1)]
    assert [asked.origin(index) for index in range(len(asked))] == [(0, 1), (0, 3), (2, 1), (2, 2)]
    assert count_answers(RECORDS) == Counted(in_all=7, of_weight_0=3)


def test_references_are_of_the_last_answer() -> None:
    assert [record.references for record in Answers(RECORDS)] == [(), ("r",), (), ()]


def test_nothing_is_left_where_no_answer_counts() -> None:
    assert len(Answers([_record(0, 0)])) == 0
