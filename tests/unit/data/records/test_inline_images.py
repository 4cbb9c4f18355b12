"""Images inside the data: told from paths, decoded to the file's own bytes, and never printed."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from minicpmv.data.records.inline_images import data_url, describe_image, image_names, is_embedded, read_embedded


def _image_file(kind: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(written, kind)
    return written.getvalue()


@pytest.mark.parametrize(("kind", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg")])
def test_a_file_comes_back_from_its_url_bit_for_bit(kind: str, mime: str) -> None:
    url = data_url(_image_file(kind))
    assert url.startswith(f"data:{mime};base64,")
    assert is_embedded(url)
    assert read_embedded(url) == _image_file(kind)


def test_a_path_is_not_an_image_and_bytes_are() -> None:
    assert not is_embedded("data/a.png")
    assert is_embedded(b"GIF89a")
    assert read_embedded(b"GIF89a") == b"GIF89a"


def test_bytes_are_named_by_their_size_and_files_by_their_path() -> None:
    assert describe_image(b"x" * 1234) == "an embedded image of 1,234 bytes"
    assert image_names(["a.png", b"12"]) == ["a.png", "an embedded image of 2 bytes"]
