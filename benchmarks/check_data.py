"""Measures `minicpmv check` against merely opening the same images with Pillow.

Makes its own data in a temporary folder: records with a small PNG or JPEG each, half and half, one in a hundred broken.
Prints records per second and the ratio of both times; compare the ratio between machines, not the rate.

    python benchmarks/check_data.py --records 10000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from minicpmv.data.sources.survey import Survey

_SIZES = ((64, 48), (224, 224), (320, 240), (448, 336))


def main() -> None:
    """Make data, measure three times each, print the best."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--records", type=int, default=10_000)
    num_records = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        data, num_broken = _make(Path(folder), num_records)
        images = sorted(str(path) for path in Path(folder).glob("*.[pj]*g"))
        opened = min(_seconds(lambda: _open(images)) for _ in range(3))
        print(f"{len(images):,} images opened with Pillow: {opened:.2f} s")
        for name, decode in (("check --headers-only", False), ("check", True)):
            seconds = min(_seconds(lambda decode=decode: _check(data, num_broken, decode)) for _ in range(3))
            rate, ratio = num_records / seconds, seconds / opened
            print(f"{name}: {seconds:.2f} s, {rate:,.0f} records per second, {ratio:.1f} x opening; ", end="")
            print(f"{num_broken} of {num_broken} broken records found")


def _make(folder: Path, num_records: int) -> tuple[str, int]:
    """Write records; one in a hundred has an image that is cut off."""
    random, records = np.random.default_rng(0), []
    coarse = random.integers(0, 256, (16, 12, 16, 3), dtype=np.uint8)  # enlarged: as smooth as photos
    for number in range(num_records):
        name = f"{number}.{('png', 'jpg')[number % 2]}"
        picture = Image.fromarray(coarse[number // 8 % 16]).resize(_SIZES[number // 2 % 4], Image.Resampling.BICUBIC)
        picture.save(folder / name)
        if number % 100 == 99:
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(whole[: len(whole) // 2])
        texts = [("user", f"<image>\nWhat is number {number}?"), ("assistant", "A field of colours. " * 10)]
        messages = [{"role": role, "content": content} for role, content in texts]
        records.append({"id": number, "image": name, "conversations": messages})
    data = folder / "train.json"
    data.write_text(json.dumps(records))
    return str(data), num_records // 100


def _open(paths: list[str]) -> None:
    for path in paths:
        with Image.open(path):
            pass


def _check(data: str, num_broken: int, decode: bool) -> None:
    survey = Survey([data])
    survey.read_texts()
    survey.read_images(decode=decode)
    survey.statistics()
    found = [finding.problem.code for finding in survey.findings if finding.problem.severity == "problem"]
    assert found == ["D142"] * num_broken, f"{num_broken} images are broken, found {len(found)}"


def _seconds(measured: Callable[[], None]) -> float:
    start = time.perf_counter()
    measured()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
