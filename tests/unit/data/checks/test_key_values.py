"""What a value holds is told from the value alone: pictures, boxes, points and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.data.checks.key_values import are_points, find_boxes, find_media, holds_numbers, texts_in


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a.png", "a picture: 'a.png'"),
        ("https://x.org/a.JPG?size=2", "a picture: 'https://x.org/a.JPG?size=2'"),
        ({"clip": [["b.mp4"]]}, "sound or film: 'b.mp4'"),
        (b"\x89PNG\r\n", "a picture's bytes"),
        ("iVBORw0KGgo" + "A" * 40, "a picture inside the text"),
        ("See fig. png", None),
        ("iVBORw0KGgo is how it begins, " + "said in many words", None),
        ([1, None, {"a": 2}], None),
    ],
)
def test_pictures_sound_and_film_are_found_in_any_value(value: object, told: str | None, tmp_path: Path) -> None:
    assert find_media(value, str(tmp_path), set()) == told


def test_a_file_is_known_by_its_content_where_its_name_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "0001").write_bytes(b"\xff\xd8\xff\xe0")
    assert find_media("0001", str(tmp_path), set()) == "a picture's file: '0001'"


@pytest.mark.parametrize(
    ("value", "is_box"),
    [
        ([1, 2, 3.5, 4], True),
        ({"boxes": [{"x": 1, "y": 2, "w": 3, "h": 4}]}, True),
        ("[1, 2, 3, 4]", True),
        ([1, 2, 3], False),
        ([True, 2, 3, 4], False),
        ({"x": 1, "y": 2}, False),
    ],
)
def test_boxes_are_four_numbers_or_named_corners(value: object, is_box: bool) -> None:
    assert find_boxes(value) is is_box


def test_points_are_pairs_and_texts_and_numbers_are_found_at_any_depth() -> None:
    assert are_points([[1, 2], [3, 4.5]])
    assert not are_points([[1, 2], [3]])
    assert list(texts_in({"a": ["x", {"b": "y"}], "c": 1})) == ["x", "y"]
    assert holds_numbers({"a": ["x", {"b": 0}]})
    assert not holds_numbers({"a": ["x", None]})
