"""Makes the shipped sheets ``assets/digits.png`` and ``assets/clothing.png`` from the published data.

``python -m minicpmv.demo.pack --digits digits.csv.gz --clothing fashion-mnist/`` needs scikit-learn's ``digits.csv.gz``
(in its wheel, ``sklearn/datasets/data``) and the two training files of Fashion-MNIST (Debian package
``dataset-fashion-mnist``). It is not needed to use or remake the demo.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

from minicpmv.demo.data import DIGIT_PIXELS, INK_LEVELS
from minicpmv.demo.pictures import CLOTHING_LEVELS, CLOTHING_PIXELS
from minicpmv.demo.sheets import ASSETS, write_sheet

_CLOTHING_PER_CLASS = 300


def pack_digits(source: Path, target: Path) -> None:
    """Pack scikit-learn's rows (64 ink values and the digit) unchanged, drawn as dark ink on white."""
    rows = np.loadtxt(gzip.decompress(source.read_bytes()).decode().splitlines(), delimiter=",").astype(np.uint8)
    ink = rows[:, :-1].reshape(-1, DIGIT_PIXELS, DIGIT_PIXELS)
    write_sheet(target, INK_LEVELS - 1 - ink, "".join(str(value) for value in rows[:, -1]), num_levels=INK_LEVELS)


def pack_clothing(source: Path, target: Path) -> None:
    """Pack the first 300 training pictures of each class, in file order, with 16 grey levels instead of 256."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((source / name).read_bytes()), dtype=np.uint8, offset=header_bytes)
        for name, header_bytes in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8))
    )
    pictures = pixels.reshape(-1, CLOTHING_PIXELS, CLOTHING_PIXELS)
    first = [np.flatnonzero(labels == label)[:_CLOTHING_PER_CLASS] for label in range(10)]
    chosen = np.sort(np.concatenate(first))
    levels = np.rint(pictures[chosen] * ((CLOTHING_LEVELS - 1) / 255)).astype(np.uint8)
    write_sheet(target, levels, "".join(str(label) for label in labels[chosen]), num_levels=CLOTHING_LEVELS)


def main() -> None:
    """Read the two sources and write the two sheets into the package."""
    parser = argparse.ArgumentParser(prog="python -m minicpmv.demo.pack", description="Remake the shipped sheets.")
    parser.add_argument("--digits", type=Path, required=True, help="scikit-learn's digits.csv.gz")
    parser.add_argument("--clothing", type=Path, required=True, help="folder with Fashion-MNIST's training files")
    arguments = parser.parse_args()
    pack_digits(arguments.digits, ASSETS / "digits.png")
    pack_clothing(arguments.clothing, ASSETS / "clothing.png")


if __name__ == "__main__":
    main()
