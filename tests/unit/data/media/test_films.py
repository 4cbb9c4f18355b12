from __future__ import annotations

from minicpmv.data.media.films import Film


def test_a_film_is_called_by_its_path_or_its_first_picture() -> None:
    assert Film(source="a.mp4").name == "a.mp4"
    assert Film(source=("a.png", "b.png")).name == "a.png and 1 more"
    assert Film(source=()).name == "an empty list of pictures"
