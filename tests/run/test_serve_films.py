"""Films sent to ``minicpmv serve``: good ones are answered as by ``minicpmv chat``, bad ones are refused alone."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from minicpmv.data.media.opened_films import open_film
from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import load_model
from tests.films import make_animation, make_film, make_sound
from tests.processes import started, wait_for
from tests.run.prepared import prepared_python
from tests.tiny import FIXTURES

MODEL = FIXTURES / "v4_5"
QUESTION = "What happens?"
LENGTH = 12

Asking = Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "root").mkdir()
    make_film(folder / "root" / "a.mp4", num_frames=50)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[openai.OpenAI]:
    flags = ["--served-model-name", "tiny", "--port", "0", "--max-body-bytes", "3000000"]
    flags += ["--max-video-frames", "8", "--max-video-seconds", "20", "--allowed-image-root", str(folder / "root")]
    log = folder / "log"
    command = [prepared_python(), "-m", "minicpmv", "serve", MODEL, *flags]
    with log.open("w") as written, started(command, stdout=written, stderr=written) as process:
        address = wait_for(r"^Serving tiny at (http://127.0.0.1:\d+/v1)$", log, process)[1]
        with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120) as client:
            yield client


def ask(client: openai.OpenAI, url: str, **asked: Any) -> str:
    content: Any = [{"type": "video_url", "video_url": {"url": url}, **asked}, {"type": "text", "text": QUESTION}]
    messages: Any = [{"role": "user", "content": content}]
    reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=LENGTH)
    return reply.choices[0].message.content or ""


def data_url(content: bytes | str) -> str:
    data = Path(content).read_bytes() if isinstance(content, str) else content
    return f"data:video/mp4;base64,{base64.b64encode(data).decode()}"


def test_a_film_is_answered_as_by_chat_wherever_it_comes_from(client: openai.OpenAI, folder: Path) -> None:
    path = str(folder / "root" / "a.mp4")
    loaded = load_model(MODEL)
    said = [
        answer(
            loaded,
            [{"role": "user", "content": [{"type": "video", "video": open_film(path, **asked)}, QUESTION]}],
            settings=GenerationSettings(max_new_tokens=LENGTH),
        )
        for asked in ({}, {"fps": 2, "start": 1.0})
    ]
    assert said[0] != said[1]
    for url in (data_url(path), path, f"file://{path}", "a.mp4"):
        assert ask(client, url) == said[0]
    assert ask(client, "a.mp4", fps=2, start=1.0) == said[1]


def test_a_longer_film_shows_as_many_frames_as_the_server_allows(client: openai.OpenAI, folder: Path) -> None:
    path = make_film(folder / "root" / "long.mp4", num_frames=200, rate=25)
    assert ask(client, "long.mp4") == ask(client, path, max_frames=8)
    with pytest.raises(openai.BadRequestError, match="found 24 frames in the films up to it, expected at most 8"):
        ask(client, "long.mp4", max_frames=100)


def test_what_is_asked_must_fit(client: openai.OpenAI) -> None:
    for asked, message in (
        ({"start": 3}, r"messages film 0\.start: found 3, expected a start within the film's 2 seconds"),
        ({"fps": "many"}, r"content\[0\]\.fps: found 'many', expected frames a second"),
        ({"speed": 2}, r"content\[0\]: found 'speed'"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            ask(client, "a.mp4", **asked)


def _bombs(folder: Path) -> dict[str, tuple[bytes, str]]:
    whole = Path(make_film(folder / "whole.mkv", num_frames=80)).read_bytes()
    playlist = b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"
    many = Path(make_animation(folder / "many.gif", [40] * 3)).read_bytes()
    long = Path(make_film(folder / "slow.mp4", num_frames=60, rate=1)).read_bytes()
    mp4 = Path(make_film(folder / "cut.mp4", num_frames=80)).read_bytes()
    return {
        "noise": (os.urandom(50_000), "FFmpeg recognises no film"),
        "a playlist": (playlist, "FFmpeg recognises no film"),
        "only sound": (Path(make_sound(folder / "sound.mp4")).read_bytes(), "a file without a video track"),
        "cut": (mp4[: len(mp4) // 2], "fix:"),
        "cut in the middle": (whole[: len(whole) // 2], r"found frames up to \d\.\d of 3\.2 s|damage at"),
        "nothing": (b"", "fix:"),
        "too long": (long, "found a film of 60.0 seconds, expected at most 20"),
        "a cut animation": (many[: len(many) // 2], "cannot be decoded"),
    }


def test_bad_films_are_refused_alone_and_do_no_harm(client: openai.OpenAI, folder: Path) -> None:
    before = set(Path("/tmp").glob("minicpmv-film-*"))  # another run may be decoding one
    left = Path(tempfile.mkdtemp(prefix="minicpmv-film-"))
    (left / "0").write_bytes(b"what a killed server was decoding")
    for name, (content, message) in _bombs(folder).items():
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            ask(client, data_url(content))
        assert "fix:" in str(caught.value), name
        assert "/tmp" not in str(caught.value), name
    assert ask(client, "a.mp4")
    assert not set(Path("/tmp").glob("minicpmv-film-*")) - before
    assert not left.exists()


def test_files_outside_and_web_addresses_are_refused(client: openai.OpenAI, folder: Path) -> None:
    outside = make_film(folder / "outside.mp4", num_frames=5)
    (folder / "root" / "link.mp4").symlink_to(outside)
    for url in (outside, "../outside.mp4", "link.mp4", "/etc/passwd", "no.mp4"):
        with pytest.raises(openai.BadRequestError, match="expected a film file in the server's --allowed-image-root"):
            ask(client, url)
    with pytest.raises(openai.BadRequestError, match="found a web address, expected a data: URL"):
        ask(client, "http://127.0.0.1/a.mp4")
