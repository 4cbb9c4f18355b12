"""Noise pictures, and how Pillow itself resizes them: the sizes that ``tests/golden/resized.json`` has digests of.

    pip install --target /tmp/pillow12 --no-deps pillow==12.3.0
    pip install --target /tmp/pillow11 --no-deps pillow==11.3.0
    PYTHONPATH=/tmp/pillow12 python -m tests.golden.noise_pictures made
    PYTHONPATH=/tmp/pillow11 python -m tests.golden.noise_pictures made_of_tall_ones

make the two halves of that file again. Each is made by one call of Pillow's own ``resize``. Pictures over 100 times as
tall as wide are a half of their own, because Pillow has gone down first with them since 12.2.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

__all__ = ["GOLDEN", "Resizing", "digest", "read_golden", "resizings"]

GOLDEN = Path(__file__).with_name("resized.json")
_TALL = 100
"""Times as tall as wide."""

# (width, height) before and after.
_SIZES = (
    ((300, 200), (420, 280)),  # larger both ways
    ((1200, 800), (546, 364)),  # smaller both ways
    ((1200, 800), (1092, 728)),
    ((1000, 600), (1036, 616)),
    ((640, 900), (700, 448)),  # larger across, smaller down
    ((900, 640), (448, 700)),  # smaller across, larger down
    ((448, 300), (448, 448)),  # one way only
    ((300, 448), (448, 448)),
    ((448, 448), (448, 448)),  # neither way
    ((1, 1), (448, 448)),
    ((1, 37), (70, 2800)),
    ((37, 1), (2800, 70)),
    ((2, 300), (14, 2100)),
    ((3000, 30), (4480, 42)),
    ((30, 3000), (42, 4480)),
    ((99, 7), (14, 14)),
    ((7, 99), (14, 14)),
    ((2800, 14), (14, 42)),
    ((14, 2800), (42, 14)),
    ((3, 484), (84, 14)),
    ((2, 204), (14, 56)),
    ((2, 559), (98, 14)),
    ((6, 660), (14, 252)),
)
_NUM_RANDOM = 100


@dataclass(frozen=True)
class Resizing:
    """One picture of noise, and how it is resized."""

    name: str
    size: tuple[int, int]
    target: tuple[int, int]
    mode: str
    resample: Image.Resampling
    seed: int

    @property
    def is_tall(self) -> bool:
        return self.size[1] > _TALL * self.size[0]

    def picture(self) -> Image.Image:
        """Make the picture; its bytes are numpy's, and no release of Pillow has a part in them."""
        width, height = self.size
        shape = (height, width, 3) if self.mode == "RGB" else (height, width)
        # Raw bytes of the generator: unlike drawn integers, they are promised to stay.
        drawn = np.random.Philox(self.seed).random_raw(-(-int(np.prod(shape)) // 8)).astype("<u8")
        return Image.fromarray(np.frombuffer(drawn.tobytes(), np.uint8)[: int(np.prod(shape))].reshape(shape))


def resizings() -> Iterator[Resizing]:
    """Yield every picture: chosen sizes with each filter in use, then random ones of every shape."""
    filters = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
    cases = [(size, target, mode, resample) for size, target in _SIZES for mode in ("RGB", "L") for resample in filters]
    for number in range(_NUM_RANDOM):
        drawn = np.random.Philox(10_000 + number).random_raw(4) / 2**64
        width, height = (int(1000**share) for share in drawn[:2])
        # Targets are those of slices: whole patches.
        target = (14 * int(1 + 60 * drawn[2]), 14 * int(1 + 60 * drawn[3]))
        cases.append(((width, height), target, "RGB", Image.Resampling.BICUBIC))
    for number, (size, target, mode, resample) in enumerate(cases):
        name = f"{size[0]}x{size[1]} to {target[0]}x{target[1]} {mode} {resample.name} {number}"
        yield Resizing(name, size, target, mode, resample, number)


def digest(image: Image.Image) -> str:
    """Digest a picture's pixels."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()[:32]


def read_golden() -> dict[str, str]:
    """Return the digest of each picture by its name."""
    halves = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return {**halves["made"]["digests"], **halves["made_of_tall_ones"]["digests"]}


def _make(half: str) -> None:
    written = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    written["remake"] = "the commands at the head of tests/golden/noise_pictures.py"
    written[half] = {
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "digests": {
            each.name: digest(each.picture().resize(each.target, each.resample))
            for each in resizings()
            if each.is_tall == (half == "made_of_tall_ones")
        },
    }
    GOLDEN.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _make(sys.argv[1])
