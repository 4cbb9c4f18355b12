from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minicpmv.data.records.file_state import FileState, FileStates, are_unchanged
from minicpmv.data.sources import cache as module
from minicpmv.data.sources.cache import DataCache, Entry


def entry(folder: Path, number: int = 0) -> Entry:
    return DataCache(folder).entry("checked", number=number)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_an_entry_is_found_by_its_ingredients(tmp_path: Path) -> None:
    assert entry(tmp_path).load() is None
    entry(tmp_path).store(ends=np.arange(3))
    found = entry(tmp_path).load()
    assert found is not None
    assert found["ends"].tolist() == [0, 1, 2]
    assert entry(tmp_path, 1).load() is None
    assert DataCache(tmp_path).entry("lengths", number=0).load() is None


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"x" * 500])
def test_a_damaged_entry_counts_as_missing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    entry(tmp_path).store(ends=np.arange(3))
    (file,) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert entry(tmp_path).load() is None
    entry(tmp_path).store(ends=np.arange(3))
    assert entry(tmp_path).load() is not None


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    entry(tmp_path).store(ends=np.arange(3))
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert entry(tmp_path).load() is None


def test_an_entry_under_the_name_of_another_counts_as_missing(tmp_path: Path) -> None:
    entry(tmp_path).store(ends=np.arange(3))
    (first,) = files(tmp_path)
    entry(tmp_path, 1).store(ends=np.arange(4))
    (second,) = set(files(tmp_path)) - {first}
    first.replace(second)
    assert entry(tmp_path, 1).load() is None


def test_a_folder_that_cannot_be_made_is_a_fault_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = DataCache(tmp_path / "file" / "folder")
    cache.entry("checked").store(ends=np.arange(3))
    assert isinstance(cache.fault, NotADirectoryError)
    assert cache.entry("checked").load() is None


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minicpmv.files.atomic_files.os.replace", fail)
    cache = DataCache(tmp_path)
    cache.entry("checked").store(ends=np.arange(3))
    assert cache.fault is not None
    assert files(tmp_path) == []


def test_those_used_last_stay_and_nothing_of_others_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    half, abandoned = (f".checked-{digit * 64}.kept.tmp" for digit in "ab")
    others = {"notes.kept", "checked-notes.kept", ".half.tmp"}
    for name in (*others, half, abandoned):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / abandoned, (0, 0))
    for number in range(2):
        entry(tmp_path, number).store(ends=np.arange(3))
    for path in tmp_path.glob("checked-*[0-9a-f].kept"):
        os.utime(path, (1000, 1000))
    assert entry(tmp_path, 0).load() is not None  # now it is the one used last
    entry(tmp_path, 2).store(ends=np.arange(3))
    assert [entry(tmp_path, number).load() is not None for number in range(3)] == [True, False, True]
    assert {path.name for path in files(tmp_path) if len(path.name) < 64} == others
    assert ((tmp_path / half).exists(), (tmp_path / abandoned).exists()) == (True, False)


def _store_often(folder: Path) -> None:
    for _ in range(30):
        entry(folder).store(ends=np.arange(1000))


def test_readers_never_see_half_of_what_two_processes_write(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_store_often, args=(tmp_path,)) for _ in range(2)]
    entry(tmp_path).store(ends=np.arange(1000))
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = entry(tmp_path).load()
        assert found is not None
        assert found["ends"].tolist() == list(range(1000))
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(files(tmp_path)) == 1


def test_software_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry(tmp_path).store(ends=np.arange(3))
    stated = module.describe_software()
    assert stated["pillow"]
    assert stated["tokenizers"]
    monkeypatch.setattr(module, "describe_software", lambda: stated | {"pillow": "1.0"})
    assert entry(tmp_path).load() is None


def test_the_code_itself_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "minicpmv"
    (package / "data").mkdir(parents=True)
    (package / "data" / "rule.py").write_text("LIMIT = 1\n")
    monkeypatch.setattr(module, "__file__", str(package / "data" / "sources" / "cache.py"))
    digests: set[str | None] = set()
    for text in ("LIMIT = 1\n", "LIMIT = 2\n"):
        (package / "data" / "rule.py").write_text(text)
        digests.add(module.describe_software.__wrapped__()["code"])
    assert len(digests) == 2


@pytest.mark.parametrize("change", ["size", "time", "gone", "none"])
def test_states_of_files(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    states = FileStates()
    for name in ("a", "ü b"):
        Path(name).write_text("text")
        states.add(name)
    states.add("half \ud800")  # cannot be the name of a file
    arrays = states.as_arrays()
    if change == "size":
        before = FileState.of("ü b").modified_ns
        Path("ü b").write_text("texts")
        os.utime("ü b", ns=(before, before))
    elif change == "time":
        os.utime("ü b", ns=(1, 1))
    elif change == "gone":
        Path("ü b").unlink()
    monkeypatch.chdir("/")
    assert are_unchanged(*arrays) is (change == "none")


def test_a_file_that_was_not_there_counts_as_changed(tmp_path: Path) -> None:
    states = FileStates()
    states.add(str(tmp_path / "a"))
    assert not are_unchanged(*states.as_arrays())


def test_a_link_where_an_entry_is_written_is_not_followed_and_stops_nobody(tmp_path: Path) -> None:
    (foreign := tmp_path / "foreign").write_text("kept", encoding="utf-8")
    cache = DataCache(tmp_path / "cache")
    cache.entry("checked").store(ends=np.arange(3))
    (file,) = files(cache.folder)
    file.unlink()
    file.with_name(f".{file.name}.tmp").symlink_to(foreign)
    cache.entry("checked").store(ends=np.arange(3))
    assert cache.fault is not None
    assert "found a link, expected nothing" in str(cache.fault.strerror)
    assert foreign.read_text(encoding="utf-8") == "kept"
