"""Reads the table of contents of an MP4 or MOV file: whether it asks for much memory, and when each frame is shown.

FFmpeg makes an entry in memory for each sample that the tables announce, and tables can announce 50 million in a few
bytes: a file of 1,667 bytes took it 1.8 GB and 10 seconds. So tables are judged here before FFmpeg reads them. Only
numbers are read. What a file means is FFmpeg's matter, which hands out no times before it has read the whole file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SAMPLES", "TableFault", "find_table_fault", "is_mp4", "read_sample_times"]

MAX_SAMPLES = 5_000_000
"""Most samples (frames, pieces of sound) of all tracks: 20 hours of film at 24 a second, and sound, have fewer."""
_MAX_BOXES = 1_000_000
_MAX_EDITED = 20_000_000
"""Most samples times edits: FFmpeg walks through the samples once for each edit."""
_FOLDERS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex"))
"""Boxes that hold boxes."""
_PCM = frozenset(
    (
        b"lpcm",
        b"sowt",
        b"twos",
        b"in24",
        b"in32",
        b"fl32",
        b"fl64",
        b"ulaw",
        b"alaw",
        b"raw ",
        b"NONE",
        b"ipcm",
        b"fpcm",
    )
)
"""Sound of which FFmpeg makes an entry for many samples together."""


class TableFault(NamedTuple):
    """Says what is wrong with a table of contents."""

    is_missing: bool
    """Whether there is none, as in a file that was cut off."""
    found: str
    expected: str


class _Box(NamedTuple):
    kind: bytes
    start: int
    """Start of the box's content, in bytes from the start of the file."""
    end: int


def is_mp4(head: bytes) -> bool:
    """Return whether a file that begins so is read as MP4 or MOV."""
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof", b"sidx")


def find_table_fault(file: BinaryIO) -> TableFault | None:
    """Return why an MP4 or MOV file is not handed to FFmpeg; None if it may be.

    Args:
        file: The open file. It is left at any position.
    """
    size = file.seek(0, os.SEEK_END)
    samples, edits, is_sound, has_index = 0, 1, False, False
    for number, box in enumerate(_walk(file, 0, size)):
        if number > _MAX_BOXES:
            return TableFault(False, f"more than {_MAX_BOXES:,} boxes", "a film")
        if box.kind in (b"moov", b"moof"):
            has_index = True
        elif box.kind == b"cmov":
            return TableFault(False, "a compressed table of contents (cmov)", "a plain one")
        elif box.kind == b"trak":
            is_sound = False
        elif box.kind == b"stsd":
            is_sound = _read(file, box, 12, 4) in _PCM
        elif box.kind in (b"stsz", b"stz2"):
            stated, count = struct.unpack(">II", _read(file, box, 4, 8))
            if box.kind == b"stsz" and stated:
                if count * stated > size:
                    return TableFault(False, f"{count:,} samples of {stated:,} bytes in {size:,} bytes", "a film")
                samples += 0 if is_sound else count
            else:
                samples += min(count, 2 * (box.end - box.start))
        elif box.kind == b"trun":
            samples += struct.unpack(">I", _read(file, box, 4, 4))[0]
        elif box.kind == b"elst":
            edits += min(struct.unpack(">I", _read(file, box, 4, 4))[0], (box.end - box.start) // 12)
        if samples > MAX_SAMPLES:
            return TableFault(False, f"a film of more than {MAX_SAMPLES:,} samples", f"at most {MAX_SAMPLES:,}")
    if samples * edits > _MAX_EDITED and edits > 4:
        return TableFault(False, f"{edits:,} edits of {samples:,} samples", "a film with few edits")
    return None if has_index else TableFault(True, "no table of contents (moov)", "a complete file")


def read_sample_times(file: BinaryIO, track: int) -> list[float] | None:
    """Return when each frame of a track is shown, in seconds from the first, ascending; None if it has no plain table.

    Args:
        file: An open file in which :func:`find_table_fault` finds nothing. It is left at any position.
        track: Number of the track.
    """
    number, scale, lengths, delays = 0, 0, b"", b""
    for box in _walk(file, 0, file.seek(0, os.SEEK_END)):
        is_long = box.kind in (b"tkhd", b"mdhd") and _read(file, box, 0, 1) == b"\1"  # its dates have 8 bytes each
        if box.kind == b"tkhd":
            number = struct.unpack(">I", _read(file, box, 20 if is_long else 12, 4))[0]
        elif number != track:
            continue
        elif box.kind == b"mdhd":
            scale = struct.unpack(">I", _read(file, box, 20 if is_long else 12, 4))[0]
        elif box.kind == b"stts":
            lengths = _read(file, box, 8, box.end - box.start - 8)
        elif box.kind == b"ctts":
            delays = _read(file, box, 8, box.end - box.start - 8)
    steps = _unroll(lengths)
    if scale == 0 or steps is None or not 0 < len(steps) <= MAX_SAMPLES:
        return None
    shown = np.concatenate([[0], np.cumsum(steps)[:-1]])
    if delays:
        late = _unroll(delays)
        if late is None or len(late) != len(shown):
            return None
        shown = shown + late
    shown.sort()
    return ((shown - shown[0]) / scale).tolist()


def _unroll(runs: bytes) -> NDArray[np.int64] | None:
    """Return the values of a table of runs, each a count and a value; None if it has more than a film may have."""
    table = np.frombuffer(runs[: len(runs) // 8 * 8], ">u4").reshape(-1, 2)
    counts, values = table[:, 0].astype(np.int64), table[:, 1].astype(np.uint32).view(np.int32).astype(np.int64)
    return np.repeat(values, counts) if counts.sum() <= MAX_SAMPLES else None


def _walk(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """Yield all boxes, those inside others behind them."""
    waiting = [(start, end)]
    while waiting:
        position, end = waiting.pop()
        while position + 8 <= end:
            file.seek(position)
            length, kind = struct.unpack(">I4s", file.read(8))
            header = 8
            if length == 1:
                wide = file.read(8)
                if len(wide) < 8:
                    break
                length, header = struct.unpack(">Q", wide)[0], 16
            elif length == 0:
                length = end - position
            if length < header:
                break
            box = _Box(kind, position + header, min(position + length, end))
            yield box
            position += length
            if kind in _FOLDERS:
                waiting.append((position, end))
                position, end = box.start, box.end


def _read(file: BinaryIO, box: _Box, offset: int, length: int) -> bytes:
    """Read a piece of a box, with zeros for what lies behind its end."""
    file.seek(box.start + offset)
    return file.read(max(0, min(length, box.end - box.start - offset))).ljust(length, b"\0")
