from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.cli.dialogue import check_file
from minicpmv.errors import UsageError
from tests.films import make_film
from tests.tiny import picture, save_picture


def test_a_film_in_place_of_a_picture_is_shown_as_a_film(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    check_file(str(tmp_path / "a.png"))
    film = make_film(tmp_path / "a.mp4", num_frames=2)
    with pytest.raises(UsageError, match=r"found a video, in '.*a.mp4', expected a picture\n  fix: .*--video .*a.mp4"):
        check_file(film)


def test_an_animation_is_shown_by_its_first_frame_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [picture(seed=seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    check_file(str(tmp_path / "a.gif"))
    said = capsys.readouterr().err
    assert "a.gif: found 3 frames or pages, expected one; the model sees the first\n" in said
    assert f"--video {tmp_path}/a.gif shows it as a film" in said
