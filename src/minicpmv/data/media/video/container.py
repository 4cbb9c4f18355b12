"""Opens film files through PyAV and chooses the video track, or says why there is none that can be used.

No other module imports PyAV, which is optional. FFmpeg, which is in PyAV, gets an open file and not its name, and
only readers of plain containers, which open no other file: a playlist under the name of a film is refused. Numbers of
pixels, samples and tracks are bounded before memory is taken by them.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any

from minicpmv.data.media.film_faults import FilmError, FilmFault
from minicpmv.data.media.video.mp4_boxes import find_table_fault, is_mp4
from minicpmv.data.records.file_kinds import HEAD_BYTES, find_kind
from minicpmv.files.plain_files import open_plain
from minicpmv.machine.installed import extra, install_command

__all__ = ["AGAIN", "ERRORS_OF_FILES", "MAX_PIXELS", "choose_track", "fault_in", "import_av", "open_container"]

MAX_PIXELS = 36_000_000
"""Most pixels of a frame: 8K has 33 million."""
_MAX_STREAMS = 64
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts"
"""None of them opens another file by itself. MPEG program streams (.mpg) are left out: their frames have no times of
their own, and those that FFmpeg makes up were a frame off in 6 of 48 tries."""
_DECODERS = (
    "h264,hevc,vp8,vp9,av1,libdav1d,mpeg1video,mpeg2video,mpeg4,h263,flv,mjpeg,prores,dnxhd,msmpeg4,msmpeg4v2,wmv2"
)
ERRORS_OF_FILES = (OSError, ValueError, OverflowError)
"""Errors of the file, which PyAV lets through, such as of a jump before its start; and of numbers too large for C."""
_REMUX = "save it again: ffmpeg -i FILM -c copy -movflags +faststart NEW.mp4"
AGAIN = "copy or download the film again"


def open_container(path: str, held: ExitStack) -> Any:
    """Return a film file opened by PyAV; what is open is closed with ``held``.

    Raises:
        FilmError: It is empty, no film, or its tables ask for more memory than a film needs.
    """
    av = import_av(path)
    file = held.enter_context(open_plain(path))
    head = file.read(HEAD_BYTES)
    if not head:
        raise fault_in(path, "empty", "an empty file", "a film", AGAIN)
    if is_mp4(head) and (fault := find_table_fault(file)):
        kind, fix = ("index missing", f"{AGAIN}: it was cut off") if fault.is_missing else ("too large", _REMUX)
        raise fault_in(path, kind, fault.found, fault.expected, fix)
    file.seek(0)
    options = {
        "format_whitelist": _FORMATS,
        "codec_whitelist": _DECODERS,
        "protocol_whitelist": "none",
        "max_streams": str(_MAX_STREAMS),
        "max_pixels": str(MAX_PIXELS),
        "threads": "1",
    }
    # Titles in any encoding: before 19, PyAV fails on them unless it is told not to; 19 knows the word no longer.
    lenient = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    try:
        return held.enter_context(av.open(file, io_open=_open_nothing, options=options, **lenient))
    except (av.error.FFmpegError, *ERRORS_OF_FILES) as error:
        kind = find_kind(head)
        known = isinstance(error, av.error.ArgumentError)  # what is known, and not among the formats
        found = "a kind of file that is not read as a film" if known else "data in which FFmpeg recognises no film"
        expected = "a film file (MP4, MOV, MKV, WebM, AVI, FLV, TS), GIF, WebP or APNG"
        fix = "if it is a film, save it as MP4" if known else AGAIN
        if kind is not None:
            found = "a video that FFmpeg cannot open" if kind.name == "a video" else kind.name
        raise fault_in(path, "not a film", found, expected, fix) from error


def choose_track(container: Any, path: str) -> Any:
    """Return the one video track of a film, whose decoder is bounded and runs in one thread.

    Raises:
        FilmError: There is none or several, or it cannot be decoded here.
    """
    streams = container.streams
    covers = import_av(path).stream.Disposition.attached_pic
    films = [stream for stream in streams.video if not stream.disposition & covers]
    if not films:
        kinds = ", ".join(dict.fromkeys(stream.type for stream in streams)) or "nothing"
        raise fault_in(path, "no pictures", f"a file without a video track ({kinds})", "a film", "give the film itself")
    if len(films) > 1:
        tracks = ", ".join(
            f"{each.codec_context.width} x {each.codec_context.height}" for each in films if each.codec_context
        )
        fix = "save the one that is meant: ffmpeg -i FILM -map 0:v:0 -c copy NEW.mp4"
        raise fault_in(path, "several tracks", f"{len(films)} video tracks ({tracks})", "one", fix)
    stream = films[0]
    context = stream.codec_context
    if context is None or context.name not in _DECODERS.split(","):
        name = "of a kind that this FFmpeg does not know" if context is None else context.name
        fix = "save it as H.264: ffmpeg -i FILM -c:v libx264 NEW.mp4"
        raise fault_in(path, "not a film", f"a video track {name}", f"one of {_DECODERS}", fix)
    if context.width * context.height > MAX_PIXELS:
        found, expected = f"frames of {context.width} x {context.height} pixels", f"at most {MAX_PIXELS:,} pixels"
        raise fault_in(path, "too large", found, expected, "shrink it: ffmpeg -i FILM -vf scale=1920:-2 NEW.mp4")
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def fault_in(path: str, kind: FilmFault, found: str, expected: str, fix: str, second: float | None = None) -> FilmError:
    """Word a fault of a film file."""
    return FilmError(kind, where=path, found=found, expected=expected, fix=fix, second=second)


def _open_nothing(url: str, *_: object) -> Any:
    """Refuse to open a file or address that a film names."""
    raise PermissionError(f"a film may name no other file, and names {url!r:.100}")


def import_av(path: str) -> Any:
    """Return PyAV's module, for a film that is read or written.

    Raises:
        FilmError: It is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise FilmError(
            "not installed",
            where=path,
            found="a film but no PyAV, which reads and writes films",
            expected="PyAV",
            fix=install_command(extra("films")),
        ) from error
