"""A sent film is decoded elsewhere: as here if it is sound, and within limits whatever it is."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.opened_films import open_film
from minicpmv.processing.films.request import FilmRequest
from minicpmv.serving.requests import film_child
from minicpmv.serving.requests.sent_films import UploadedFilm, open_sent_film
from tests.films import make_animation, make_film, number_of


def test_facts_and_frames_are_those_of_a_reader_in_this_process(tmp_path: Path) -> None:
    for path in (
        make_film(tmp_path / "a.mkv", num_frames=50, turned=90),
        make_animation(tmp_path / "a.gif", [40, 200, 40]),
    ):
        here = open_film(path)
        with open_sent_film(path, FilmRequest(), where="film 0", seconds=60) as sent:
            assert sent.facts == here.facts
            times = [0.0, 0.01, 0.1, 0.25]
            assert sent.read(times, number_of) == list(here.read(times, number_of))


def test_an_uploaded_film_can_be_read_again_and_names_itself_without_its_folder(tmp_path: Path) -> None:
    film = UploadedFilm.open(make_film(tmp_path / "a.mp4", num_frames=30), FilmRequest(), seconds=60)
    assert film.read([0.0, 1.0], number_of) == film.read([0.0, 1.0], number_of) == [0, 25]
    (tmp_path / "a.mp4").write_bytes(b"something else")
    with pytest.raises(FilmError, match=r"^film a\.mp4: found data in which FFmpeg recognises no film"):
        film.read([0.0], number_of)


def test_a_decoder_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = make_film(tmp_path / "a.mp4", num_frames=5)
    with (
        pytest.raises(FilmError, match=r"film 0: found a film that takes too long to decode, expected .* 0 s\n"),
        open_sent_film(path, FilmRequest(), where="film 0", seconds=0.01),
    ):
        pass


def test_a_decoder_that_dies_is_named(tmp_path: Path) -> None:
    path = make_film(tmp_path / "a.mp4", num_frames=5)
    with open_sent_film(path, FilmRequest(), where="film 0", seconds=60) as film:
        os.kill(film._child._process.pid, 9)
        film._child._process.wait()
        with pytest.raises(FilmError, match="film 0: found a film on which its decoder failed"):
            film.read([0.0], number_of)


def test_a_decoder_that_needs_more_memory_than_it_may_have_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """In this process, in place of one with a limit: what a film takes depends on FFmpeg."""

    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(film_child, "_limit", exhaust)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"seconds": 1}\n'))
    film_child.main()
    assert b"a film that takes more than 4 GiB of memory" in capfdbinary.readouterr().out


def test_the_limits_of_the_system_hold(tmp_path: Path) -> None:
    """The decoder's time on the processor is limited as well as the clock."""
    program = (
        "import resource; from minicpmv.serving.requests import film_child; film_child._limit(7); "
        "print([resource.getrlimit(getattr(resource, f'RLIMIT_{name}'))[0] for name in ('CPU', 'AS', 'FSIZE')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[7, {4 * 2**30}, 0]"
