from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from minicpmv.data.media import animations
from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import Film, inspect_film, read_frames
from tests.films import draw_number, make_animation, number_of


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_each_frame_is_shown_as_long_as_the_file_says(tmp_path: Path, name: str) -> None:
    film = Film(source=make_animation(tmp_path / name, [40, 200, 40, 200]))
    facts = inspect_film(film)
    assert facts.frame_times == pytest.approx((0.0, 0.04, 0.24, 0.28))
    assert (facts.duration, facts.rate) == (pytest.approx(0.48), pytest.approx(4 / 0.48))
    assert (facts.num_frames, facts.size, facts.is_chosen) == (4, (64, 48), False)
    shown = read_frames(film, [0.0, 0.03, 0.04, 0.2399, 0.25, 0.28, 5.0])
    assert [number_of(frame) for frame in shown] == [0, 0, 1, 2, 2, 3, 3]
    assert shown[0] is shown[1]


def test_frames_without_a_length_are_shown_as_browsers_do(tmp_path: Path) -> None:
    facts = inspect_film(Film(source=make_animation(tmp_path / "a.gif", [0, 10, 100])))
    assert facts.frame_times == pytest.approx((0.0, 0.1, 0.2))


def test_a_gif_of_one_frame_is_a_film_and_a_png_of_one_is_a_picture(tmp_path: Path) -> None:
    draw_number(5).save(tmp_path / "one.gif")
    assert number_of(read_frames(Film(source=str(tmp_path / "one.gif")), [0.0])[0]) == 5
    draw_number(5).save(tmp_path / "one.png")
    with pytest.raises(FilmError, match="name it as an image") as caught:
        inspect_film(Film(source=str(tmp_path / "one.png")))
    assert caught.value.kind == "not a film"


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_a_damaged_animation_is_named(tmp_path: Path, name: str) -> None:
    path = Path(make_animation(tmp_path / name, [100] * 6))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(FilmError) as caught:
        inspect_film(Film(source=str(path)))
    assert caught.value.kind == "damaged"


def test_an_animation_of_too_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_animation(tmp_path / "a.gif", [100] * 6)
    monkeypatch.setattr(animations, "MAX_ANIMATION_PIXELS", 5 * 64 * 48)
    with pytest.raises(FilmError, match="more than 5 frames") as caught:
        inspect_film(Film(source=path))
    assert caught.value.kind == "too large"
    monkeypatch.setattr(animations, "MAX_ANIMATION_BYTES", 100)
    with pytest.raises(FilmError, match="100 are the most"):
        inspect_film(Film(source=path))


def test_transparent_pixels_keep_the_colour_under_them(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (8, 8), (250, shade, 0, 0)) for shade in (0, 100)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, blend=0)
    (frame,) = read_frames(Film(source=str(tmp_path / "a.png")), [0.1])
    assert (frame.mode, frame.getpixel((4, 4))) == ("RGB", (250, 100, 0))
