"""Arrays of which a machine has one copy, on ranks that are threads; real processes are in ``test_together``."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data import machine_copies
from minicpmv.data.machine_copies import from_first, join, keep, remaining
from minicpmv.data.sharing import ALONE, Sharing
from tests.ranks import on_ranks

PAIR = np.dtype([("a", np.int32), ("b", np.int64)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, and a file for everything however small."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine_copies, "_WORTH_A_FILE", 1)
    return tmp_path


def parts_of(rank: int) -> list[Any]:
    """Return arrays of several types, of which rank 1 has nothing, and nobody anything of the last."""
    number = 0 if rank == 1 else 3 + rank
    pairs = np.zeros(number, PAIR)
    pairs["a"], pairs["b"] = rank, np.arange(number)
    return [np.full(number, rank, np.uint8), pairs, np.full((number, 2), rank, np.int64), np.zeros(0)]


def whole_of(number: int) -> list[Any]:
    return [np.concatenate(each) for each in zip(*map(parts_of, range(number)), strict=True)]


def equal(found: list[Any], number: int) -> bool:
    return all(
        each.dtype == expected.dtype and np.array_equal(each, expected)
        for each, expected in zip(found, whole_of(number), strict=True)
    )


@pytest.mark.parametrize("worth", [1, 10**6])
def test_parts_are_joined_in_the_order_of_their_processes(
    worth: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a file, which leaves no name behind, or, when they are small, plainly."""
    monkeypatch.setattr(machine_copies, "_WORTH_A_FILE", worth)
    for number in (2, 4):
        for found in on_ranks(number, lambda sharing: join(parts_of(sharing.rank), sharing)):
            assert equal(found, number)
            assert all(each.flags.writeable == (worth > 1) for each in found), "what is shared is read-only"
    assert list(folder.iterdir()) == []


def test_one_process_keeps_its_own_arrays() -> None:
    own = parts_of(0)
    assert all(found is each for found, each in zip(join(own, ALONE), own, strict=True))


def test_each_machine_has_a_copy_and_hands_what_it_knows_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three machines, and on the second one two containers, whose processes cannot open each other's files."""
    places = ["first", "second", "second", "second apart", "third", "second apart"]
    here = threading.local()
    opened: list[tuple[str, str]] = []
    makers: dict[str, str] = {}
    make, open_here = tempfile.mkstemp, machine_copies._open

    def make_here(**settings: Any) -> tuple[int, str]:
        file, path = make(**settings)
        makers[path] = here.place
        return file, path

    def open_there(path: str, begins: bytes) -> int:
        if makers[path] != here.place:
            return -1
        opened.append((here.place, makers[path]))
        return open_here(path, begins)

    def work(sharing: Sharing) -> list[Any]:
        here.place = places[sharing.rank]
        return join(parts_of(sharing.rank), sharing)

    monkeypatch.setattr(machine_copies, "_name_machine", lambda: here.place.split()[0])
    monkeypatch.setattr(tempfile, "mkstemp", make_here)
    monkeypatch.setattr(machine_copies, "_open", open_there)
    assert all(equal(found, 6) for found in on_ranks(6, work))
    assert sorted(makers.values()) == ["first", "second", "second apart", "third"]
    assert sorted(opened) == [("second", "second"), ("second apart", "second apart")]


def test_another_file_of_the_same_name_is_not_taken_for_the_machines(tmp_path: Path) -> None:
    path = tmp_path / "another"
    path.write_bytes(b"x" * 64)
    assert machine_copies._open(str(path), b"y" * 16) == -1
    assert machine_copies._open(str(tmp_path / "none"), b"y" * 16) == -1


@pytest.mark.parametrize("at", ["mkstemp", "pwrite", "mmap"])
def test_without_room_each_process_has_its_own_copy_and_one_says_why(
    at: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*given: Any, **settings: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = {"mkstemp": tempfile, "pwrite": os, "mmap": machine_copies.mmap}[at]
    monkeypatch.setattr(owner, at, refuse)
    with caplog.at_level(logging.WARNING):
        for found in on_ranks(3, lambda sharing: join(parts_of(sharing.rank), sharing)):
            assert equal(found, 3)
            assert all(each.flags.writeable for each in found)
    (said,) = caplog.messages
    assert "No space left on device" in said
    assert str(folder) in said
    assert "TMPDIR" in said
    assert list(folder.iterdir()) == []


def test_what_the_first_process_loads_reaches_all() -> None:
    loaded: list[int] = []

    def load() -> dict[str, Any]:
        loaded.append(1)
        return dict(zip("abcd", whole_of(3), strict=True))

    for found in on_ranks(3, lambda sharing: from_first(load, sharing)):
        assert found is not None
        assert equal([found[name] for name in "abcd"], 3)
    assert loaded == [1]
    assert on_ranks(3, lambda sharing: from_first(lambda: None, sharing)) == [None] * 3
    assert from_first(lambda: None, ALONE) is None


def test_equal_arrays_become_one() -> None:
    for found in on_ranks(3, lambda sharing: keep(np.arange(7), sharing)):
        assert found.tolist() == [*range(7)]
        assert not found.flags.writeable


@pytest.mark.parametrize("left_out", [[], [0, 4, 9], [*range(10)]])
def test_places_remain_without_those_that_are_left_out(left_out: list[int]) -> None:
    expected = sorted({*range(10)} - {*left_out})
    for found in on_ranks(4, lambda sharing: remaining(10, np.array(left_out, np.int64), sharing)):
        assert found.tolist() == expected
    assert remaining(10, np.array(left_out, np.int64), ALONE).tolist() == expected
