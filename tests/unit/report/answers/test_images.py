"""Images of a report are embedded, a few of each record; one that cannot be shown says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from minicpmv.report.answers.images import Pictures


def test_an_image_is_embedded_and_a_tiny_one_known(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "tiny.png")
    Image.new("RGB", (900, 600), "red").save(tmp_path / "large.png")
    tiny, large = Pictures(tmp_path).of(["tiny.png", "large.png"])
    assert tiny.url.startswith("data:image/")
    assert (tiny.name, tiny.is_tiny, tiny.fault) == ("tiny.png", True, "")
    assert (large.name, large.is_tiny, large.fault) == ("large.png", False, "")


def test_an_image_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    missing, inside, impossible = Pictures(tmp_path).of(["a/none.png", "an embedded image of 3 bytes", "a\0b"])
    assert (missing.name, missing.url, missing.fault) == ("none.png", "", "no such file")
    assert inside.fault == "it is embedded in the data"
    assert impossible.url == ""
    assert impossible.fault != ""


def test_images_beyond_the_first_are_counted(tmp_path: Path) -> None:
    pictures, names = Pictures(tmp_path), [f"{number}.png" for number in range(30)]
    assert len(pictures.of(names)) + pictures.num_hidden(names) == 30
    assert pictures.num_hidden(names[:1]) == 0


def test_an_image_of_several_records_is_embedded_once(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.png")
    pictures = Pictures(tmp_path)
    first, other, again = *pictures.of(["a.png", "b.png"]), *pictures.of(["a.png"])
    assert (again.number, again.url, again.is_repeated) == (first.number, "", True)
    assert (first.is_repeated, other.is_repeated, first.number != other.number) == (False, False, True)


def test_later_images_are_smaller_so_that_a_page_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 255, (900, 1200, 3), dtype=np.uint8)  # noise: the largest files that there are
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    pictures = Pictures(tmp_path)
    sizes = [len(pictures.of([f"{number}.jpg"])[0].url) for number in range(40)]
    assert sizes[0] > 4 * sizes[10] > 4 * sizes[-1]
    assert sum(sizes) < 5_000_000
