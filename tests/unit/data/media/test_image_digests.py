"""Pictures are known by their place in the data and by what they hold; whoever exchanges one is found out."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data.media import image_digests as picture_digests
from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.data.records.file_state import FileStates


def _make(folder: Path, num: int = 5) -> list[str]:
    folder.mkdir(exist_ok=True)
    for number in range(num):
        (folder / f"{number}.png").write_bytes(bytes([number]) * 100)
    return [str(folder / f"{number}.png") for number in range(num)]


def _look(paths: list[str]) -> PictureDigests:
    parts = [FileStates(), FileStates()]  # two sources
    for number, path in enumerate(paths):
        parts[number % 2].add(path)
    return PictureDigests(parts)


def _read(pictures: PictureDigests, paths: list[str]) -> None:
    for path in paths:
        pictures.note(path, Path(path).read_bytes())


def _touch(path: str) -> None:
    os.utime(path, ns=(1, 1))


def test_what_is_as_it_was_has_no_change(tmp_path: Path) -> None:
    paths = _make(tmp_path)
    pictures = _look(paths)
    _read(pictures, paths)
    assert _look(paths).compare(**pictures.as_arrays()) == []
    _touch(paths[2])
    assert _look(paths).compare(**pictures.as_arrays()) == [], "a new time of change alone is none"


def test_size_counts_for_all_and_content_for_what_was_read(tmp_path: Path) -> None:
    paths = _make(tmp_path)
    pictures = _look(paths)
    _read(pictures, paths[:3])
    Path(paths[1]).write_bytes(b"x" * 100)  # read, and as large as before
    _touch(paths[1])
    Path(paths[3]).write_bytes(b"x" * 100)  # not read yet: nothing was trained on it
    Path(paths[4]).write_bytes(b"x" * 99)
    changes = _look(paths).compare(**pictures.as_arrays())
    then, now = (picture_digests._digest(content).hex()[:12] for content in (bytes([1]) * 100, b"x" * 100))
    assert {change.path: (change.before, change.now) for change in changes} == {
        paths[1]: (f"sha256 {then}", now),
        paths[4]: ("100 bytes", "99"),
    }


def test_exchange_that_keeps_size_and_time_is_found_among_those_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = _make(tmp_path)
    pictures = _look(paths)
    _read(pictures, paths)
    state = os.stat(paths[0])
    Path(paths[0]).write_bytes(b"x" * 100)
    os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert [change.path for change in _look(paths).compare(**pictures.as_arrays())] == [paths[0]]
    monkeypatch.setattr(picture_digests, "_DRAWN", 0)
    assert _look(paths).compare(**pictures.as_arrays()) == []


def test_picture_that_is_gone_is_a_change(tmp_path: Path) -> None:
    paths = _make(tmp_path)
    pictures = _look(paths)
    _read(pictures, paths)
    os.unlink(paths[2])
    assert [str(change) for change in _look(paths).compare(**pictures.as_arrays())] == [
        f"{paths[2]}: 100 bytes then, -1 now"
    ]


def test_data_may_lie_elsewhere(tmp_path: Path) -> None:
    pictures = _look(paths := _make(tmp_path / "here"))
    _read(pictures, paths)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = [path.replace("/here", "/there") for path in paths]
    assert _look(moved).compare(**pictures.as_arrays()) == []
    Path(moved[1]).write_bytes(b"x" * 100)
    assert [change.path for change in _look(moved).compare(**pictures.as_arrays())] == [moved[1]]


def test_what_was_read_before_is_kept_but_for_what_has_changed(tmp_path: Path) -> None:
    paths = _make(tmp_path)
    before = _look(paths)
    _read(before, paths)
    Path(paths[1]).write_bytes(b"x" * 50)
    now = _look(paths)
    now.recall(before.digests, without=now.compare(**before.as_arrays()))
    assert now.digests.any(axis=1).sum() == 4
    assert _look(paths).compare(**now.as_arrays()) == [], "what was allowed once is not found again"


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside threads; Python 3.12
def test_workers_write_for_the_process_that_started_them(method: str, tmp_path: Path) -> None:
    paths = _make(tmp_path)
    pictures = _look(paths)
    context: Any = multiprocessing.get_context(method)
    worker = context.Process(target=_read, args=(pictures, paths))
    worker.start()
    worker.join()
    assert pictures.digests.any(axis=1).all()


def test_name_that_nobody_has_checked_is_passed_over(tmp_path: Path) -> None:
    pictures = _look(_make(tmp_path))
    pictures.note(str(tmp_path / "other.png"), b"x")
    assert not pictures.digests.any()
    assert len(PictureDigests([])) == 0
    PictureDigests([]).note("a.png", b"x")
    assert PictureDigests([]).compare(np.zeros((0, 2), np.int64), np.zeros((0, 16), np.uint8)) == []
