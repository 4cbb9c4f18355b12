from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from minicpmv.data.samples.feature_store import FeatureStore

_KEY = "ab" * 32
_FEATURES = torch.arange(12.0).reshape(4, 3)


def store_in(folder: Path, *, max_bytes: int = 10**6) -> FeatureStore:
    return FeatureStore(folder, max_bytes)


def file_of(folder: Path) -> Path:
    (path,) = folder.rglob("*.safetensors")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_come_back_as_they_were(dtype: torch.dtype, tmp_path: Path) -> None:
    features = torch.randn(5, 2, 3).to(dtype)
    assert store_in(tmp_path).write(_KEY, features)
    read = store_in(tmp_path).read(_KEY, 5)
    assert read is not None
    assert read.dtype == dtype
    assert torch.equal(read, features)


def test_unknown_key_is_none(tmp_path: Path) -> None:
    assert store_in(tmp_path / "no folder").read(_KEY, 4) is None


_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[:-1],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "zeros at the end": lambda content: content[:-8] + bytes(8),
    "another format": lambda content: b"not safetensors at all",
    "another program's": lambda content: save({"features": torch.zeros(4, 3)}),
    "another type": lambda content: content.replace(b'"F32"', b'"I32"'),
    "another type of the same kind": lambda content: content.replace(b'"F32","shape":[4,3]', b'"F16","shape":[4,6]'),
    "another shape": lambda content: content.replace(b"[4,3]", b"[3,4]"),
    "transposed": lambda content: content.replace(b"[4,3]", b"[2,6]"),
}


def test_every_damage_changes_the_file(tmp_path: Path) -> None:
    store_in(tmp_path).write(_KEY, _FEATURES)
    content = file_of(tmp_path).read_bytes()
    assert [name for name, damage in _DAMAGE.items() if damage(content) == content] == []


@pytest.mark.parametrize("damage", _DAMAGE)
def test_damaged_or_foreign_file_is_unknown_and_replaced(damage: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(_KEY, _FEATURES)
    path = file_of(tmp_path)
    path.write_bytes(_DAMAGE[damage](path.read_bytes()))
    assert store.read(_KEY, 4) is None
    assert store.write(_KEY, _FEATURES)
    read = store.read(_KEY, 4)
    assert read is not None
    assert torch.equal(read, _FEATURES)


def test_entry_under_the_key_of_another_image_counts_as_missing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(_KEY, _FEATURES)
    other = "ab" + "cd" * 31
    file_of(tmp_path).rename(tmp_path / "ab" / f"{other}.safetensors")
    assert store.read(other, 4) is None


def test_fifo_in_place_of_an_entry_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    os.mkfifo(tmp_path / "ab" / f"{_KEY}.safetensors")
    store = store_in(tmp_path)
    assert store.read(_KEY, 4) is None
    assert store.write(_KEY, _FEATURES)
    assert store.read(_KEY, 4) is not None


def test_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no"):
        store_in(tmp_path).write(_KEY, _FEATURES)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def key(number: int) -> str:
    return f"{number:064x}"


_LARGE = torch.zeros(1000)


def earlier_files(folder: Path) -> int:
    """Store images 0 to 2, last used long ago, 0 before 1 before 2; return the bytes of each."""
    store = store_in(folder)
    for number in range(3):
        store.write(key(number), _LARGE)
        path = folder / "00" / f"{key(number)}.safetensors"
        os.utime(path, (number + 1, number + 1))
    return path.stat().st_size


def known(folder: Path) -> list[int]:
    return sorted(int(path.stem, 16) for path in folder.rglob("*.safetensors"))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    size = earlier_files(tmp_path)
    store = store_in(tmp_path, max_bytes=3 * size)
    store.read(key(0), 1000)
    assert store.write(key(3), _LARGE)
    assert known(tmp_path) == [0, 2, 3]


def test_what_the_run_uses_stays(tmp_path: Path) -> None:
    size = earlier_files(tmp_path)
    store = store_in(tmp_path, max_bytes=3 * size)
    for number in range(3):
        store.read(key(number), 1000)
    assert not store.write(key(3), _LARGE)
    assert known(tmp_path) == [0, 1, 2]


def test_bound_holds_over_two_writers(tmp_path: Path) -> None:
    size = earlier_files(tmp_path)
    stores = [store_in(tmp_path, max_bytes=5 * size) for _ in range(2)]
    stored = [store.write(key(3 + index), _LARGE) for index, store in enumerate(stores * 5)]
    assert stored == [True] * 5 + [False] * 5
    assert len(known(tmp_path)) == 5


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "00"
    folder.mkdir()
    old, new = folder / ".a.1-1.part", folder / ".b.2-2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    store_in(tmp_path).write(key(0), _LARGE)
    assert not old.exists()
    assert new.exists(), "another process is writing it"


def _write_and_read(folder: str, first: int, wrong: object) -> None:
    store = FeatureStore(Path(folder), 10**9)
    for turn in range(200):
        number = (first + turn) % 20
        features = torch.full((5000,), float(number))
        if turn % 7 == 0:  # as one does whose image was damaged
            store._path(key(number)).unlink(missing_ok=True)
        store.write(key(number), features)
        read: Tensor | None = store.read(key(number), 5000)
        if read is not None and not torch.equal(read, features):
            wrong.put(number)  # pyright: ignore[reportAttributeAccessIssue]


def test_processes_may_share_a_folder_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    wrong = context.Queue()
    processes = [context.Process(target=_write_and_read, args=(str(tmp_path), first, wrong)) for first in (0, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert wrong.empty()
    assert known(tmp_path) == list(range(20))
