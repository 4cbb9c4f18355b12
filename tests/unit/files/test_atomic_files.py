"""What has a fixed name is opened itself: no link leads to another file, nothing is waited for, nothing taken over."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import aside_of, claim, open_in_place, staging

Opening = Callable[[Path], AbstractContextManager[Any]]


@pytest.mark.parametrize(("opened", "needed"), [(claim, "a file"), (staging, "a folder")])
@pytest.mark.parametrize("found", ["a link", "a link to nothing", "a FIFO, socket or device", "the other kind"])
def test_what_is_no_place_of_its_own_is_named_and_left_alone(
    opened: Opening, needed: str, found: str, tmp_path: Path
) -> None:
    name, foreign = tmp_path / "work", tmp_path / "foreign"
    place = aside_of(name) if opened is claim else name
    if found == "the other kind":
        found = "a folder" if opened is claim else "a file"
        place.mkdir() if opened is claim else place.touch()
    elif found.startswith("a link"):
        foreign.mkdir()
        (foreign / "kept").write_text("kept", encoding="utf-8")
        target = foreign / "none" if "nothing" in found else foreign / "kept" if opened is claim else foreign
        place.symlink_to(target)
        found = "a link"
    else:
        os.mkfifo(place)
    message = f"'{place}': found {found}, expected nothing, or {needed} of this user\n  fix: rename or remove it, or "
    with pytest.raises(UsageError) as raised, opened(name):
        pass
    assert str(raised.value).startswith(message)
    assert os.path.lexists(place)
    if foreign.exists():
        assert [path.read_text(encoding="utf-8") for path in foreign.iterdir()] == ["kept"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
@pytest.mark.parametrize("opened", [claim, staging])
def test_what_another_user_made_is_not_taken_over(opened: Opening, tmp_path: Path) -> None:
    name = tmp_path / "work"
    place = aside_of(name) if opened is claim else name
    place.touch() if opened is claim else place.mkdir()
    os.chown(place, 4321, -1)
    with pytest.raises(UsageError, match=r"of another user, expected nothing, or a f.* of this user"), opened(name):
        pass
    assert place.stat().st_uid == 4321
    os.close(open_in_place(place, os.O_RDONLY | (os.O_DIRECTORY if place.is_dir() else 0), is_own=False))


@pytest.mark.parametrize("opened", [claim, staging])
def test_what_a_killed_process_of_this_user_left_is_used(opened: Opening, tmp_path: Path) -> None:
    name = tmp_path / "work"
    place = aside_of(name) if opened is claim else name
    place.write_text("half", encoding="utf-8") if opened is claim else (place / "half").mkdir(parents=True)
    with opened(name):
        assert place.read_bytes() == b"" if opened is claim else not any(place.iterdir())
    assert not place.exists()
