"""Recognises by its first bytes a file that is neither records nor a picture, and names the command that helps.

People give archives, spreadsheets and pictures where records are expected, and archives, videos and web pages where a
picture is. Nothing is opened here: the caller passes the beginning of the file.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["HEAD_BYTES", "FileKind", "find_kind", "read_kind"]

HEAD_BYTES = 4096
"""Bytes of a file's beginning for ``find_kind``; the deepest signature, tar's, ends at byte 262."""

_AGAIN = "download or copy the file again"
_PICTURE_AGAIN = "save or download the image again"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileKind:
    """Describes a kind of file that is refused."""

    name: str
    """Name with its article, as it follows 'found'."""
    data_fix: str = "give the data file that goes with it"
    """Fix if the file is given as data. ``{path}`` is the file, ``{stem}`` the file without its last ending; both
    are quoted for a shell."""
    image_fix: str = _PICTURE_AGAIN
    """Fix if the file is named as a picture."""
    is_picture: bool = False
    """Whether Pillow reads such files."""
    is_film: bool = False

    def as_data(self, path: str) -> str:
        """Word the fix for a file given as data."""
        return self._fill(self.data_fix, path)

    def as_image(self, path: str) -> str:
        """Word the fix for a file named as a picture; an embedded one has an empty path."""
        return self._fill(self.image_fix, path or "FILE")

    @staticmethod
    def _fill(fix: str, path: str) -> str:
        return fix.replace("{path}", shlex.quote(path)).replace("{stem}", shlex.quote(os.path.splitext(path)[0]))


def _python(code: str) -> str:
    return f'python -c "{code}" {{path}} {{stem}}'


_GIT_LFS = FileKind(
    name="a pointer of git-lfs, not the file itself",
    data_fix="fetch the file: git lfs pull --include {path}",
    image_fix="fetch the file: git lfs pull --include {path}",
)
_GIT_ANNEX = FileKind(
    name="a pointer of git-annex, not the file itself",
    data_fix="fetch the file: git annex get {path}",
    image_fix="fetch the file: git annex get {path}",
)
_UNPACK = "then give the data file in it"
_TABLE = FileKind(name="a spreadsheet or another office document", data_fix="save the sheet as CSV, and give that file")
_MODEL = FileKind(name="the weights of a model", data_fix="give a data file here; the model has a flag of its own")
_VIDEO = FileKind(
    name="a video",
    data_fix="give a file of records that names it under 'video'",
    image_fix="name it under 'video' of the record, with <video> in the text",
    is_film=True,
)
_SOUND = FileKind(name="a sound recording", data_fix="give a file of records; sound cannot be trained on")
_WEB_PAGE = FileKind(
    name="a web page",
    data_fix="download the file itself; this is the page about it, or the server's refusal",
    image_fix="download the image itself; this is the page about it, or the server's refusal",
)
_PDF = FileKind(
    name="a PDF document",
    data_fix="give a file of records that names page images",
    image_fix="make an image of each page: pdftoppm -png -r 150 {path} {stem}",
)
_HEIC = FileKind(
    name="a HEIC picture",
    data_fix="give a file of records that names pictures",
    image_fix="convert it: pip install pillow-heif && "
    + _python("import sys, pillow_heif; pillow_heif.open_heif(sys.argv[1]).to_pillow().save(sys.argv[2] + '.png')"),
)
_SVG = FileKind(
    name="an SVG drawing, which has no pixels",
    data_fix="give a file of records that names pictures",
    image_fix="draw it: rsvg-convert {path} -o {stem}.png",
)
_XML = FileKind(name="XML", data_fix="write the records in it as JSON")
_YAML = FileKind(
    name="YAML",
    data_fix="convert it once: "
    + _python("import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), open(sys.argv[2] + '.json', 'w'))"),
)


def _packed(name: str, command: str) -> FileKind:
    return FileKind(name=name, data_fix=f"unpack it: {command}", image_fix=f"unpack it: {command}")


def _picture(name: str) -> FileKind:
    return FileKind(name=name, data_fix="give a file of records that names pictures", is_picture=True)


_ZIP = _packed("a ZIP archive", f"python -m zipfile -e {{path}} {{stem}}, {_UNPACK}")
_TAR = _packed(
    "a TAR archive, such as a WebDataset shard", f"mkdir {{stem}} && tar -xf {{path}} -C {{stem}}, {_UNPACK}"
)
_PICKLE = FileKind(
    name="a Python pickle", data_fix="where you trust it, load it with what wrote it, and save the records as JSON"
)
_BEGINNINGS: tuple[tuple[bytes, FileKind], ...] = (
    (b"version https://git-lfs.github.com/spec/", _GIT_LFS),
    (b"/annex/objects/", _GIT_ANNEX),
    (b"BZh", _packed("data packed by bzip2", "bunzip2 --keep {path}")),
    (b"\xfd7zXZ\0", _packed("data packed by xz", "unxz --keep {path}")),
    (b"\x28\xb5\x2f\xfd", _packed("data packed by zstd", "unzstd {path}")),
    (b"\x04\x22\x4d\x18", _packed("data packed by lz4", "unlz4 {path}")),
    (b"\x1f\x8b", _packed("data packed by gzip", "gunzip --keep {path}")),
    (b"7z\xbc\xaf\x27\x1c", _packed("a 7z archive", f"7z x {{path}} -o{{stem}}, {_UNPACK}")),
    (b"Rar!\x1a\x07", _packed("a RAR archive", f"unrar x {{path}} {{stem}}/, {_UNPACK}")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _TABLE),
    (
        b"SQLite format 3\0",
        FileKind(
            name="an SQLite database", data_fix="sqlite3 -json {path} 'select * from NAME_OF_TABLE' > {stem}.json"
        ),
    ),
    (b"\x89HDF\r\n\x1a\n", FileKind(name="an HDF5 file", data_fix="save the records in it as JSON Lines or Parquet")),
    (b"\x93NUMPY", FileKind(name="a numpy array", data_fix="save the records as JSON Lines or Parquet")),
    (
        b"ORC",
        FileKind(
            name="an ORC table",
            data_fix="save it as Parquet: "
            + _python(
                "import sys, pyarrow.orc as o, pyarrow.parquet as p; "
                "p.write_table(o.read_table(sys.argv[1]), sys.argv[2] + '.parquet')"
            ),
        ),
    ),
    (b"Obj\x01", FileKind(name="an Avro file", data_fix="save the records as JSON Lines or Parquet")),
    (b"GGUF", _MODEL),
    (b"%PDF-", _PDF),
    (b"%!PS", FileKind(name="a PostScript document", image_fix="draw it: gs -sDEVICE=png16m -o {stem}.png {path}")),
    (b"{\\rtf", FileKind(name="a document of a word processor (RTF)", data_fix="save it as plain text")),
    (b"\x89PNG", _picture("a PNG picture")),
    (b"\xff\xd8\xff", _picture("a JPEG picture")),
    (b"GIF8", _picture("a GIF picture")),
    (b"II*\0", _picture("a TIFF picture")),
    (b"MM\0*", _picture("a TIFF picture")),
    (b"\xff\x0a", FileKind(name="a JPEG XL picture", image_fix="convert it: djxl {path} {stem}.png")),
    (b"\0\0\0\x0cJXL ", FileKind(name="a JPEG XL picture", image_fix="convert it: djxl {path} {stem}.png")),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
    (b"ID3", _SOUND),
    (b"OggS", _SOUND),
    (b"fLaC", _SOUND),
    (b"\x7fELF", FileKind(name="a program")),
)
_OFFICE_PARTS = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/", b"word/", b"ppt/")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_YAML_LINE = re.compile(rb"(?:---[ \t]*\r?\n|(?:- +)?[A-Za-z_][\w-]*: *(?:[^/\s]|\r?\n)|- +[\"'\w])")
_ENDINGS: dict[str, FileKind] = {
    ".tfrecord": FileKind(name="a file of TensorFlow records", data_fix="save the records as JSON Lines or Parquet"),
    ".mdb": FileKind(name="a database (LMDB or Access)", data_fix="save the records as JSON Lines or Parquet"),
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".yaml": _YAML,
    ".yml": _YAML,
}


def find_kind(head: bytes, name: str = "") -> FileKind | None:
    """Return the kind of a file, or None if neither its beginning nor its name tells.

    Args:
        head: Its first ``HEAD_BYTES``, or all of it.
        name: Its name, which decides only if the content does not begin like JSON. Without a name, text is
            of no kind: a line such as ``error: not found`` in place of a picture is not YAML.
    """
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    for find in _FINDERS:
        if kind := find(head):
            return kind
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{", b""):
        return None
    suffix = ".tfrecord" if ".tfrecord" in name.lower() else os.path.splitext(name)[1].lower()
    if kind := _ENDINGS.get(suffix):
        return kind
    return _YAML if name and _YAML_LINE.match(head) else None


def read_kind(path: str) -> FileKind | None:
    """Return the kind of a file named as a picture; None if its beginning does not tell, or cannot be read."""
    try:
        with open(path, "rb") as file:
            return find_kind(file.read(HEAD_BYTES))
    except (OSError, ValueError):
        return None


def _find_zip(head: bytes) -> FileKind | None:
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return None
    member = head[30:]  # the name of the first file in the archive
    if member.startswith(_OFFICE_PARTS):
        return _TABLE
    return _MODEL if b"/data.pkl" in member[:200] else _ZIP


def _find_tar(head: bytes) -> FileKind | None:
    return _TAR if head[257:262] == b"ustar" else None


def _find_pickle(head: bytes) -> FileKind | None:
    return _PICKLE if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") else None


def _find_weights(head: bytes) -> FileKind | None:
    return _MODEL if head[8:10] == b'{"' and b"\0" in head[:8] else None  # safetensors


def _find_film(head: bytes) -> FileKind | None:
    """Distinguish the kinds in ISO's container (ftyp) and Microsoft's (RIFF)."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return _HEIC if brand in _HEIC_BRANDS else _picture("an AVIF picture") if brand[:3] == b"avi" else _VIDEO
    if head.startswith(b"RIFF"):
        kinds = {b"WEBP": _picture("a WebP picture"), b"AVI ": _VIDEO, b"WAVE": _SOUND}
        return kinds.get(head[8:12])
    is_bitmap = head.startswith(b"BM") and head[6:10] == b"\0\0\0\0"
    return _picture("a BMP picture") if is_bitmap else None


def _find_markup(head: bytes) -> FileKind | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:2000].lower()
    if not text.startswith(b"<"):
        return None
    if b"<svg" in text:
        return _SVG
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return _WEB_PAGE
    return _XML if re.match(rb"<[a-z?!]", text) else None


_FINDERS: tuple[Callable[[bytes], FileKind | None], ...] = (
    _find_zip,
    _find_tar,
    _find_pickle,
    _find_weights,
    _find_film,
    _find_markup,
)
