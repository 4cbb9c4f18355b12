from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from minicpmv.data.media.video.mp4_boxes import MAX_SAMPLES, find_table_fault, is_mp4
from tests.films import make_film


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _track(*tables: bytes, sound: bytes = b"avc1") -> bytes:
    entries = _box(b"stsd", struct.pack(">II", 0, 1), _box(sound, bytes(8)))
    return _box(b"moov", _box(b"trak", _box(b"mdia", _box(b"minf", _box(b"stbl", entries, *tables)))))


def _sizes(stated: int, count: int, kind: bytes = b"stsz") -> bytes:
    return _box(kind, struct.pack(">III", 0, stated, count))


def _find(content: bytes) -> str:
    fault = find_table_fault(io.BytesIO(content))
    return "" if fault is None else fault.found


def test_films_pass_whole_and_in_fragments(tmp_path: Path) -> None:
    for name, options in (("a.mp4", {}), ("b.mp4", {"movflags": "frag_keyframe+empty_moov"}), ("c.mov", {})):
        path = make_film(tmp_path / name, has_sound=True, options=options)
        content = Path(path).read_bytes()
        assert is_mp4(content)
        assert _find(content) == ""


def test_more_samples_than_bytes_are_refused() -> None:
    content = _track(_sizes(1, 50_000_000))
    assert _find(content) == f"50,000,000 samples of 1 bytes in {len(content)} bytes"
    assert _find(_track(_sizes(1, 50_000_000), sound=b"sowt")).startswith("50,000,000 samples")


def test_more_samples_than_a_day_has_are_refused_wherever_they_are_announced() -> None:
    many = MAX_SAMPLES + 1
    room = _box(b"mdat", bytes(many))
    for tables in (
        _track(_sizes(1, many)),
        _track() + _box(b"moof", _box(b"traf", _box(b"trun", struct.pack(">II", 0, many)))),
        _track(_sizes(1, many // 2 + 1), _sizes(1, many // 2 + 1)),
    ):
        assert _find(tables + room) == f"a film of more than {MAX_SAMPLES:,} samples"
    assert _find(_track(_sizes(1, many), sound=b"sowt") + room) == ""  # an hour of plain sound has 170 million


def test_edits_times_samples_are_bounded() -> None:
    edits = _box(b"edts", _box(b"elst", struct.pack(">II", 0, 100), bytes(1200)))
    tracks = _box(b"moov", _box(b"trak", edits, _box(b"stbl", _sizes(1, 300_000))))
    assert _find(tracks + _box(b"mdat", bytes(300_000))) == "101 edits of 300,000 samples"


def test_what_has_no_table_or_a_packed_one_is_told_apart() -> None:
    fault = find_table_fault(io.BytesIO(_box(b"ftyp", b"isom") + _box(b"mdat", bytes(10))))
    assert fault is not None
    assert fault.is_missing
    assert "cmov" in _find(_box(b"moov", _box(b"cmov")))


@pytest.mark.parametrize("length", [0, 1, 7, 9, 2**31])
def test_boxes_of_any_length_end(length: int) -> None:
    head = _box(b"ftyp", b"isom")
    assert _find(head + struct.pack(">I4s", length, b"moov") + bytes(20)) in ("", "no table of contents (moov)")
