from __future__ import annotations

from pathlib import Path

import pytest

import minicpmv
from minicpmv.api.paths import path_of
from minicpmv.errors import UsageError


@pytest.mark.parametrize("wrong", [None, 3, "", b"model"])
def test_what_is_no_path_is_refused_by_the_name_of_its_argument(wrong: object) -> None:
    with pytest.raises(UsageError, match=f"path: found {wrong!r}, expected a path"):
        minicpmv.load(wrong)  # pyright: ignore[reportArgumentType]


def test_path_is_returned_as_text() -> None:
    assert path_of(Path("a") / "b", "data") == path_of("a/b", "data") == "a/b"
