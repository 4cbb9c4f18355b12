"""What a stranger's film makes us open, and how much memory and time it takes: nothing else, and little."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.films import draw_number, make_animation, make_film
from tests.tiny import FIXTURES

_ROOT = FIXTURES.parents[1]
_MEMORY = 700 * 2**20
"""Bytes that reading films may take beyond what the process has when it starts."""
_READER = """
import json, os, resource, sys
from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import Film, inspect_film, read_frames
import av  # the hook below tells only what films open
opened = []
def note(event, args):
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc", ".so")):
        opened.append(args[0])
sys.addaudithook(note)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + int(sys.argv[1]),) * 2)
for path in sys.stdin.read().split("\\n"):
    opened.clear()
    try:
        facts = inspect_film(Film(source=path))
        times = [facts.duration * part / 8 for part in range(8)]
        frames = read_frames(Film(source=path), times, convert=lambda frame: frame.resize((8, 8)))
        end = f"read {len(frames)}"
    except FilmError as error:
        end = f"named {error.kind}: {error}"
    except BaseException as error:
        end = f"raised {type(error).__name__}: {error}"
    print(json.dumps([end, sorted(set(opened) - {path})]), flush=True)
"""


def _read(paths: list[Path]) -> list[tuple[str, list[str]]]:
    """Return, for each file, how reading it ended, and what else was opened."""
    ended = subprocess.run(
        [sys.executable, "-c", _READER, str(_MEMORY)],
        input="\n".join(map(str, paths)),
        text=True,
        capture_output=True,
        timeout=900,
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["src", *sys.path])},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_film(tmp_path_factory.mktemp("secret") / "secret.ts", num_frames=30))


def _disguised(secret: Path, port: int) -> dict[str, str]:
    """Return texts that FFmpeg reads as lists of other files or addresses."""
    address = f"http://127.0.0.1:{port}/film.ts"
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "hls_web": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\n{address}\n#EXT-X-ENDLIST\n",
        "hls_concat": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\nconcat:{secret}|{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        f'<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{address}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file://{secret}"/></svg>',
        "srt": "1\n00:00:00,000 --> 00:00:04,000\nhello\n",
        "asx": f'<asx version="3.0"><entry><ref href="{address}"/></entry></asx>',
        "redirect": f"[Reference]\nRef1={address}\n",
        "rtsptext": f"RTSPtextRTSP://127.0.0.1:{port}/x\n",
        "y4m": "YUV4MPEG2 W9 H9 F25:1\nFRAME\n",
    }


@pytest.mark.parametrize("ending", ["mp4", "mkv", "m3u8"])
def test_a_list_of_other_files_is_no_film_whatever_it_is_called(tmp_path: Path, secret: Path, ending: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        texts = _disguised(secret, listener.getsockname()[1])
        paths = [tmp_path / f"{name}.{ending}" for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text)
        for path, (end, opened) in zip(paths, _read(paths), strict=True):
            assert end.startswith("named not a film"), path
            assert opened == [], path
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_sound_film_opens_nothing_else(secret: Path, tmp_path: Path) -> None:
    """Also one whose name is an address to FFmpeg, and one that says where else its pictures lie (a data reference)."""
    content = Path(make_film(tmp_path / "whole.mov")).read_bytes()
    assert content.count(b"url \0\0\0\1") == 1, "the pictures lie in the file itself"
    elsewhere = tmp_path / "elsewhere.mov"
    elsewhere.write_bytes(content.replace(b"url \0\0\0\1", b"alis\0\0\0\0"))
    named = tmp_path / "concat:a|b.ts"
    named.write_bytes(secret.read_bytes())
    ends = _read([secret, named, elsewhere])
    assert [end for end, _ in ends][:2] == ["read 8", "read 8"]
    assert [opened for _, opened in ends] == [[], [], []]


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _with_samples(film: Path, count: int, stated: int) -> bytes:
    """Return a small MP4 file that announces so many samples."""
    content = film.read_bytes()
    start = content.index(b"stsd") - 4
    entries = content[start : start + struct.unpack(">I", content[start : start + 4])[0]]
    head = _box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
    tables = (
        _box(b"stts", struct.pack(">4I", 0, 1, count, 1)),
        _box(b"stsc", struct.pack(">5I", 0, 1, 1, count, 1)),
        _box(b"stsz", struct.pack(">3I", 0, stated, count)),
        _box(b"stco", struct.pack(">3I", 0, 1, len(head) + 8)),
    )
    media = _box(
        b"mdia",
        _box(b"mdhd", struct.pack(">5IHH", 0, 0, 0, 25, count, 0, 0)),
        _box(b"hdlr", bytes(8) + b"vide" + bytes(13)),
        _box(b"minf", _box(b"vmhd", bytes(12)), _box(b"stbl", entries, *tables)),
    )
    track = _box(b"trak", _box(b"tkhd", struct.pack(">6I", 0, 0, 0, 1, 0, count), bytes(60)), media)
    movie = _box(b"moov", _box(b"mvhd", struct.pack(">5I", 0, 0, 0, 25, count), bytes(80)), track)
    return head + _box(b"mdat", bytes(1000)) + movie


def test_bombs_are_named_in_little_memory(tmp_path: Path) -> None:
    film = Path(make_film(tmp_path / "film.mp4"))
    many, most, tall, giant, gif = (
        tmp_path / name for name in ("many.mp4", "most.mp4", "tall.mp4", "giant.png", "large.gif")
    )
    many.write_bytes(_with_samples(film, 50_000_000, 1))
    most.write_bytes(_with_samples(film, 2**32 - 1, 2**31))
    make_film(tall, num_frames=1, size=(8192, 4608))
    draw_number(1, (2, 2)).save(giant)
    content = bytearray(giant.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    giant.write_bytes(content)
    frames = Path(make_animation(gif, [20, 20])).read_bytes()
    gif.write_bytes(frames[:6] + struct.pack("<HH", 65_535, 65_535) + frames[10:])
    ends = [end for end, _ in _read([many, most, tall, giant, gif])]
    assert [end.partition(":")[0] for end in ends[:3]] == ["named too large"] * 3
    assert all(end.startswith(("named too large", "named damaged", "named not a film")) for end in ends[3:]), ends


def test_a_size_that_grows_inside_the_film_takes_no_memory(tmp_path: Path) -> None:
    path = Path(make_film(tmp_path / "grows.ts", num_frames=4, rate=1, changes_to=(8192, 4608)))
    ((end, _),) = _read([path])
    assert end.startswith("named ")


def _spoiled(films: list[Path], folder: Path, number: int) -> list[Path]:
    draw = random.Random(number)
    made: list[Path] = []
    for place in range(number):
        source = draw.choice(films)
        content = bytearray(source.read_bytes())
        for _ in range(draw.choice((1, 3, 10, 60))):
            # Tables and headers lie at both ends.
            where = draw.choice((draw.randrange(len(content)), draw.randrange(64), -1 - draw.randrange(900)))
            where = max(-len(content), where) % len(content)
            content[where] = draw.choice((0, 255, 127, draw.randrange(256)))
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        made.append(folder / f"{place}_{source.name}")
        made[-1].write_bytes(content)
    return made


def _fuzz(folder: Path, number: int) -> None:
    kinds = (
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
    )
    films = [Path(make_film(folder / name, codec=codec, num_frames=20)) for name, codec in kinds]
    films += [Path(make_animation(folder / name, [40, 200, 40])) for name in ("b.gif", "b.webp", "b.png")]
    assert [end for end, _ in _read(films)] == ["read 8"] * len(films)
    paths = _spoiled(films, folder, number)
    for path, (end, opened) in zip(paths, _read(paths), strict=True):
        assert end.startswith(("read ", "named ")), (path, end)
        assert opened == [], path


def test_spoiled_films_are_read_or_named(tmp_path: Path) -> None:
    _fuzz(tmp_path, 150)


@pytest.mark.slow
def test_thousands_of_spoiled_films_are_read_or_named(tmp_path: Path) -> None:
    _fuzz(tmp_path, 3000)
