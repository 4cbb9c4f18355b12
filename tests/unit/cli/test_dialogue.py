from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.cli.dialogue import check_file
from minicpmv.errors import UsageError
from tests.films import make_film
from tests.tiny import save_picture


def test_a_film_in_place_of_a_picture_is_shown_as_a_film(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    check_file(str(tmp_path / "a.png"))
    film = make_film(tmp_path / "a.mp4", num_frames=2)
    with pytest.raises(UsageError, match=r"found a video, in '.*a.mp4', expected a picture\n  fix: .*--video .*a.mp4"):
        check_file(film)
