from __future__ import annotations

from typing import Any

import pytest

from minicpmv.data import ids
from minicpmv.data.ids import IdRegister
from minicpmv.data.records import RawRecord


def repeated(*values: Any) -> list[tuple[int, str]]:
    records = [
        RawRecord(source=source, index=index, line=None, value={"id": value})
        for index, (source, value) in enumerate(values)
    ]
    register = IdRegister()
    for position, record in enumerate(records):
        register.add(record, position)
    return [(position, problem.found) for position, problem in register.problems(records)]


def test_every_repetition_names_the_first() -> None:
    found = repeated(("a", "x"), ("a", 5), ("a", "x"), ("a", "y"), ("a", "5"), ("a", "x"))
    assert found == [(2, "the id of record 0 again"), (4, "the id of record 1 again"), (5, "the id of record 0 again")]


def test_files_have_ids_of_their_own_and_none_is_no_id() -> None:
    assert repeated(("a", "x"), ("b", "x"), ("a", None), ("a", None)) == []


def test_ids_that_only_hash_alike_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "hash", lambda key: 7, raising=False)
    assert repeated(("a", "x"), ("a", "y"), ("a", "x")) == [(2, "the id of record 0 again")]
