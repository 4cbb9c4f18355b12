"""What may be sent as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import ImageError
from minicpmv.ui.uploads import check_uploads
from tests.tiny import save_picture


def test_pixels_are_summed_over_a_question(tmp_path: Path) -> None:
    files = [save_picture(tmp_path / f"{number}.png", 100, 50) for number in range(3)]
    check_uploads(files, max_pixels=15_000)
    with pytest.raises(ImageError, match=r"image 2.png: found 100 x 50 pixels, expected at most 14999 pixels"):
        check_uploads(files, max_pixels=14_999)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"image cat.png: found 10 bytes that are no image"):
        check_uploads([str(tmp_path / "cat.png")], max_pixels=100)
