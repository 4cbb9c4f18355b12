"""Small image files in lossy formats, which a decoder may read one way or another, and digests of their pixels.

    PYTHONPATH=/tmp/pillow12:src python -m tests.golden.encoded_pictures

makes them again (``noise_pictures`` says how to get Pillow 12.3.0 there).
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from minicpmv.processing.pictures.patches import load_image
from tests.golden.noise_pictures import digest

__all__ = ["GOLDEN", "WAYS"]

GOLDEN = Path(__file__).with_name("decoded.json")

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG, colours halved both ways": ("RGB", {"format": "JPEG", "quality": 75, "subsampling": 2}),
    "JPEG, colours halved across, progressive": (
        "RGB",
        {"format": "JPEG", "quality": 40, "subsampling": 1, "progressive": True},
    ),
    "JPEG, colours whole": ("RGB", {"format": "JPEG", "quality": 90, "subsampling": 0}),
    "JPEG, grey": ("L", {"format": "JPEG", "quality": 60}),
    "JPEG, four inks": ("CMYK", {"format": "JPEG", "quality": 80}),
    "WebP": ("RGB", {"format": "WEBP", "quality": 70}),
}
"""Mode and options of each."""


def _make() -> None:
    coarse = np.frombuffer(np.random.Philox(0).random_raw(30).tobytes(), np.uint8)[: 9 * 8 * 3].reshape(8, 9, 3)
    picture = Image.fromarray(coarse).resize((61, 47), Image.Resampling.BICUBIC)
    made: dict[str, Any] = {}
    for name, (mode, options) in WAYS.items():
        file = io.BytesIO()
        picture.convert(mode).save(file, **options)
        content = file.getvalue()
        made[name] = {"file": base64.b64encode(content).decode(), "digest": digest(load_image(content))}
    written = {
        "remake": "the command at the head of tests/golden/encoded_pictures.py",
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "webp": features.version("webp"),
        "pictures": made,
    }
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _make()
