"""Frames show their number (``tests.films``), so that each test sees which ones it was given."""

from __future__ import annotations

import importlib
import random
import shutil
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import Film, inspect_film, read_frames
from minicpmv.data.media.video import container, video_file, walk
from minicpmv.machine.installed import extra, install_command
from tests.films import make_film, make_sound, number_of

_EVERY_FOURTH = tuple(number / 25 for number in range(0, 100, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def _numbers(path: str, times: Sequence[float], *, is_whole: bool = True) -> list[int]:
    return [number_of(frame) for frame in read_frames(Film(source=path), times, is_whole=is_whole)]


def _fault(path: str, times: Sequence[float] = _EVERY_FOURTH) -> FilmError:
    """Return the fault that is found in the header, or else on reading."""
    try:
        inspect_film(Film(source=path))
    except FilmError as error:
        return error
    with pytest.raises(FilmError) as caught:
        read_frames(Film(source=path), times)
    return caught.value


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("b.avi", "libx264"),
        ("a.flv", "libx264"),
        ("a.ts", "libx264"),
    ],
)
def test_the_frames_are_those_that_are_asked_for(folder: Path, name: str, codec: str) -> None:
    path = make_film(folder / name, codec=codec, has_sound=name == "a.mkv")
    facts = inspect_film(Film(source=path))
    assert facts.duration == pytest.approx(4.0, abs=0.1)
    assert (facts.frames, facts.rate, facts.size) == (100, 25.0, (64, 48))
    assert _numbers(path, _EVERY_FOURTH) == list(range(0, 100, 4))
    assert _numbers(path, (0.0, 3.96)) == [0, 99]
    assert _numbers(path, (1.5, 1.5, 1.51, 3.0)) == [37, 37, 37, 75]


def test_any_order_of_near_and_far_times_gives_the_same_frames_as_all_of_them(folder: Path) -> None:
    path = make_film(folder / "far.mp4", num_frames=250, key_every=40)
    draw = random.Random(0)
    for _ in range(12):
        numbers = sorted(draw.sample(range(250), draw.randrange(1, 6)))
        assert _numbers(path, [number / 25 for number in numbers]) == numbers


@pytest.mark.parametrize("name", ["vary.mp4", "vary.mkv"])
def test_frames_of_a_varying_rate_are_those_shown_then(folder: Path, name: str) -> None:
    """50 frames 40 ms apart, then 50 that are 200 ms apart."""
    shown = list(accumulate([0] + [40] * 50 + [200] * 49))
    path = make_film(folder / name, milliseconds=shown)
    assert _numbers(path, [time / 1000 for time in shown]) == list(range(100))
    assert _numbers(path, (0.03, 1.99, 2.19, 2.21, 11.0)) == [0, 49, 50, 51, 95]


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_frames_are_turned_as_a_viewer_shows_them(folder: Path, turned: int) -> None:
    path = make_film(folder / f"turned{turned}.mp4", turned=turned)
    assert inspect_film(Film(source=path)).size == (64, 48)
    (frame,) = read_frames(Film(source=path), [2.0])
    assert frame.size == (64, 48)
    assert number_of(frame) == 50


def test_a_film_of_one_frame(folder: Path) -> None:
    for name in ("one.mp4", "one.mkv"):
        path = make_film(folder / name, num_frames=1)
        assert inspect_film(Film(source=path)).duration == pytest.approx(0.04)
        assert _numbers(path, [0.0]) == [0]


def test_frames_are_counted_where_the_header_states_no_length(folder: Path) -> None:
    """As of recordings by a browser: the length of the file, and that of the track, are taken out of the header."""
    content = Path(make_film(folder / "stated.webm", codec="libvpx-vp9", num_frames=60)).read_bytes()
    path = folder / "recorded.webm"
    length, track = content.index(b"\x44\x89\x88"), content.index(b"DURATION")
    spoiled = bytearray(content)
    spoiled[length : length + 2] = b"\xec\x89"  # an element of 9 bytes that readers pass over
    spoiled[track : track + 8] = b"NOTATIME"
    path.write_bytes(spoiled)
    facts = inspect_film(Film(source=str(path)))
    assert (facts.duration, facts.rate) == (pytest.approx(2.4, abs=0.01), pytest.approx(25.0, abs=0.1))
    assert facts.num_frames == 60


def test_what_is_kept_is_what_convert_returns_and_one_frame_is_one_object(folder: Path) -> None:
    path = make_film(folder / "a.mp4")
    first, second, third = read_frames(Film(source=path), (1.0, 1.01, 2.0), convert=lambda frame: frame.resize((8, 6)))
    assert first is second
    assert {first.size, third.size} == {(8, 6)}


def test_a_file_that_was_cut_off_ends_early(folder: Path) -> None:
    path = make_film(folder / "long.mkv")
    cut = folder / "cut.mkv"
    cut.write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size * 6 // 10])
    assert inspect_film(Film(source=str(cut))).duration == 4.0
    error = _fault(str(cut), [3.9])
    assert error.kind == "ends early"
    assert error.second is not None
    assert 1.0 < error.second < 3.4
    assert f"frames up to {error.second:.1f} of 4.0 s" in error.found
    assert f"ask for an end of {error.second:.2f} s" in error.fix
    last = round(error.second * 25) - 1
    assert _numbers(str(cut), [0.0, 3.9], is_whole=False) == [0, last]
    assert _numbers(str(cut), [0.0, 0.4]) == [0, 10]


def test_a_recording_that_begins_between_key_frames_begins_with_its_first_whole_frame(folder: Path) -> None:
    content = Path(make_film(folder / "whole.ts", size=(128, 96), key_every=30)).read_bytes()
    late = folder / "late.ts"
    late.write_bytes(content[188 * 40 :])
    first, second = _numbers(str(late), [0.0, 1.0])
    assert first > 0
    assert second == first + 25


def test_two_recordings_in_one_file_are_damage_where_time_goes_back(folder: Path) -> None:
    content = Path(make_film(folder / "whole.ts")).read_bytes()
    twice = folder / "twice.ts"
    twice.write_bytes(content * 2)
    assert _fault(str(twice)).kind == "damaged"


def test_an_mp4_file_that_was_cut_off_has_no_index(folder: Path) -> None:
    path = make_film(folder / "long.mp4")
    cut = folder / "cut.mp4"
    cut.write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size // 2])
    assert _fault(str(cut)).kind == "index missing"


@pytest.mark.parametrize("name", ["whole.mp4", "whole.mkv", "whole.ts"])
def test_damage_is_named_with_its_second(folder: Path, name: str) -> None:
    path = make_film(folder / name, size=(128, 96))
    content = bytearray(Path(path).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    damaged = folder / f"damaged_{name}"
    damaged.write_bytes(content)
    error = _fault(str(damaged))
    assert error.kind == "damaged"
    assert error.second is not None
    assert 0.5 < error.second < 3.5
    assert len(read_frames(Film(source=str(damaged)), [0.0, 3.9], is_whole=False)) == 2


def test_faults_of_the_whole_file_are_told_apart(folder: Path) -> None:
    empty, text, junk = folder / "empty.mp4", folder / "text.mp4", folder / "junk.mkv"
    empty.write_bytes(b"")
    text.write_text("<!DOCTYPE html><html>not found</html>")
    junk.write_bytes(b"\x1a\x45\xdf\xa3" + random.Random(0).randbytes(5000))
    assert _fault(str(empty)).kind == "empty"
    assert _fault(str(text)).kind == "not a film"
    assert "web page" in _fault(str(text)).found
    assert _fault(str(junk)).kind == "not a film"
    assert _fault(str(junk)).found == "a video that FFmpeg cannot open"
    assert "save it as MP4" in _fault(make_film(folder / "a.mpg", codec="mpeg2video", num_frames=30)).fix
    assert _fault(make_sound(folder / "sound.m4a")).kind == "no pictures"
    two = _fault(make_film(folder / "two.mkv", tracks=2, num_frames=5))
    assert (two.kind, two.found) == ("several tracks", "2 video tracks (64 x 48, 64 x 48)")
    other = _fault(make_film(folder / "sizes.ts", changes_to=(96, 48)))
    assert (other.kind, other.second) == ("size changes", pytest.approx(2.08))


def test_frames_too_large_and_films_too_long_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_film(folder / "a.mp4")
    monkeypatch.setattr(video_file, "MAX_SECONDS", 3)
    assert _fault(path).kind == "too long"
    monkeypatch.setattr(walk, "MAX_DECODED", 20)
    assert _fault(path, [3.9]).kind == "too long"
    monkeypatch.setattr(container, "MAX_PIXELS", 64 * 47)
    assert _fault(path).kind == "too large"


def test_without_pyav_the_message_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_film(folder / "a.mp4")
    really = importlib.import_module

    def missing(name: str) -> object:
        if name == "av":
            raise ImportError(name)
        return really(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    error = _fault(path)
    assert (error.kind, error.fix) == ("not installed", install_command(extra("films")))


def test_a_film_is_read_in_one_thread_and_nothing_stays_open(folder: Path) -> None:
    path = make_film(folder / "a.mp4")
    threads, files = Path("/proc/self/task"), Path("/proc/self/fd")
    before = len(list(threads.iterdir())), len(list(files.iterdir()))
    _numbers(path, _EVERY_FOURTH)
    with pytest.raises(FilmError):
        inspect_film(Film(source=make_sound(folder / "sound.m4a")))
    assert len(list(threads.iterdir())) <= before[0]  # an encoder's may still be ending
    assert len(list(files.iterdir())) == before[1]


def test_a_file_may_have_any_name(folder: Path) -> None:
    strange = folder / "file:concat|é%d.mp4"
    shutil.copy(make_film(folder / "a.mp4"), strange)
    assert _numbers(str(strange), [1.0]) == [25]
    assert isinstance(read_frames(Film(source=str(strange)), [1.0])[0], Image.Image)
