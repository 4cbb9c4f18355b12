"""Image files with one oddity or fault each, by the names that docs/data.md uses for them."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny import picture, save_picture


def huge_png(width: int = 20000, height: int = 20000) -> bytes:
    """Make a PNG that claims its size and holds nothing."""
    return _png(width, height, b"")


@lru_cache
def large_png(width: int = 10000, height: int = 9000) -> bytes:
    """Make a sound PNG with more pixels than Pillow opens without a warning; one bit each, all black."""
    return _png(width, height, b"\0" * ((1 + (width + 7) // 8) * height), bits=1, kind=0)


def _png(width: int, height: int, rows: bytes, *, bits: int = 8, kind: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def save_odd_images(folder: Path) -> None:
    """Write sound, faulty and odd files."""
    save_picture(folder / "cat.png")
    save_picture(folder / "dog.png")
    data = (folder / "dog.png").read_bytes()
    (folder / "cut_off.png").write_bytes(data[: len(data) // 2])
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "large.png").write_bytes(large_png())
    picture().save(folder / "png_inside.jpg", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(folder / "turned.jpg", exif=exif)
    picture().save(folder / "moving.gif", save_all=True, append_images=[picture(seed=1), picture(seed=2)])
    picture().convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(np.full((40, 50), 1000, np.uint16)).save(folder / "deep.png")
    picture().convert("RGBA").save(folder / "glass.png")
    Image.fromarray(np.linspace(0, 1, 2000, dtype=np.float32).reshape(40, 50)).save(folder / "fractions.tif")
