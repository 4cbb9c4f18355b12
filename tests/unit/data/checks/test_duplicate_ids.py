from __future__ import annotations

from typing import Any

import pytest

from minicpmv.data.checks import duplicate_ids as ids
from minicpmv.data.checks.duplicate_ids import IdRegister, RepeatedIds
from minicpmv.data.records.record import RawRecord


def judged(*values: tuple[str, Any, str]) -> RepeatedIds:
    """Judge records of (file, id, text)."""
    records = [
        RawRecord(source=source, index=index, line=None, value={"id": value, "text": text})
        for index, (source, value, text) in enumerate(values)
    ]
    register = IdRegister()
    for position, record in enumerate(records):
        register.add(record, position)
    return register.judge(records)


def problems(*values: tuple[str, Any, str]) -> list[tuple[int, str]]:
    return [(position, problem.found) for position, problem in judged(*values).problems]


def test_every_repetition_of_a_record_names_the_first() -> None:
    a, b, same = ("a", "x", "t"), ("a", 5, "t"), "the same record as record {}, with the same id"
    found = problems(a, b, a, ("a", "y", "t"), ("a", "5", "t"), a)
    assert found == [(2, same.format(0)), (4, same.format(1)), (5, same.format(0))]


def test_different_records_that_share_an_id_are_one_notice_of_their_file() -> None:
    found = judged(*[("a", "x", str(number)) for number in range(5)], ("b", "x", "0"), ("a", 7, "u"), ("a", "7", "v"))
    assert found.problems == []
    ((source, notice),) = found.notices
    assert (source, notice.where, notice.code, notice.severity) == ("a", "a", "D331", "notice")
    assert notice.found == (
        "5 records with the id of an earlier, different record: 'x' (records 0, 1, 2, ...), 7 (records 6, 7)"
    )


def test_a_shared_id_and_a_repeated_record_are_both_named() -> None:
    found = judged(("a", "x", "t"), ("a", "x", "u"), ("a", "x", "t"))
    assert [position for position, _ in found.problems] == [2]
    assert "1 record " in found.notices[0][1].found


def test_files_have_ids_of_their_own_and_none_is_no_id() -> None:
    found = judged(("a", "x", "t"), ("b", "x", "t"), ("a", None, "t"), ("a", None, "t"))
    assert found == RepeatedIds([], [])


def test_ids_that_only_hash_alike_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "hash", lambda key: 7, raising=False)
    found = judged(("a", "x", "t"), ("a", "y", "t"), ("a", "x", "t"))
    assert [position for position, _ in found.problems] == [2]
    assert found.notices == []


@pytest.mark.parametrize(
    ("first", "second", "are_the_same"),
    [
        ({"a": 1, "b": [b"x"]}, {"b": [b"x"], "a": 1}, True),
        ({"a": [b"x"]}, {"a": [b"y"]}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": None}, {}, False),
        ({"a": float("nan")}, {"a": float("nan")}, True),
    ],
)
def test_records_are_the_same_if_all_their_values_are(
    first: dict[str, Any], second: dict[str, Any], are_the_same: bool
) -> None:
    made = [RawRecord(source="a", index=n, line=None, value=value) for n, value in enumerate((first, second))]
    assert (ids.digest_record(made[0]) == ids.digest_record(made[1])) is are_the_same
