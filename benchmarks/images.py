"""From a JPEG file to patch rows, on one core: compared with decoding alone, and with the plain way to the same pixels.

    python -m benchmarks images

The plain way is what image processors do: tiles cut as pictures, each turned to float, scaled, normalised, and cut into
patches by ``unfold``. Ours is also measured without normalising, which data workers leave to the model. Resizing is
measured by itself, too, compared with one call of Pillow's own.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import unfold

from benchmarks.records import MIXED, make_records
from minicpmv.processing.pictures.patches import cut_patches, load_image, normalise, resize
from minicpmv.processing.pictures.slicing import SliceConfig, SlicePlan, plan_slices

__all__ = ["measure", "plain_patches"]


def plain_patches(image: Image.Image, plan: SlicePlan) -> torch.Tensor:
    """Patch rows (patches, 588) float32, in the plain way."""
    slices = [resize(image, plan.source_size)]
    if plan.grid is not None and plan.refine_size is not None and plan.slice_size is not None:
        refined = resize(image, plan.refine_size)
        width, height = plan.slice_size
        for row in range(plan.grid[1]):
            for column in range(plan.grid[0]):
                left, top = column * width, row * height
                slices.append(refined.crop((left, top, left + width, top + height)))
    rows = []
    for picture in slices:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        pixels = (pixels - 0.5) / 0.5
        rows.append(unfold(pixels[None], plan.patch_size, stride=plan.patch_size)[0].T)
    return torch.cat(rows)


def measure(*, repetitions: int) -> dict[str, Any]:
    """Time each way over the same files; return images per second and ratios, medians over the repetitions."""
    torch.set_num_threads(1)
    config = SliceConfig()
    with tempfile.TemporaryDirectory() as folder:
        make_records(Path(folder), 4 * len(MIXED))
        files = sorted(Path(folder).glob("*.jpg"))

        def plan_of(image: Image.Image) -> SlicePlan:
            return plan_slices(*image.size, config)

        def as_bytes(file: Path) -> Any:
            image = load_image(file)
            return cut_patches(image, plan_of(image))

        def ours(file: Path) -> Any:
            return normalise(as_bytes(file), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

        def plain(file: Path) -> Any:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            return plain_patches(image, plan_of(image))

        for file in files:
            assert np.array_equal(ours(file), plain(file).numpy()), file
        rounds = [
            {
                name: len(files) / _seconds(way, files)
                for name, way in (("decode", load_image), ("bytes", as_bytes), ("ours", ours), ("plain", plain))
            }
            for _ in range(repetitions)
        ]
        resizing = [_compare_resizing(files) for _ in range(repetitions)]
    figures = {f"{name}_images_per_second": statistics.median(each[name] for each in rounds) for name in rounds[0]}
    figures["times_faster"] = statistics.median(each["ours"] / each["plain"] for each in rounds)
    figures["times_faster_without_normalising"] = statistics.median(each["bytes"] / each["ours"] for each in rounds)
    figures["resizing_as_fast_as_one_call"] = statistics.median(resizing)
    figures["share_of_decoding"] = statistics.median(each["ours"] / each["decode"] for each in rounds)
    return figures


def _compare_resizing(files: list[Path]) -> float:
    """Say how many times as fast as one call of Pillow's own our resizing is, in processor time."""
    images = [load_image(file) for file in files]
    plans = [plan_slices(*image.size, SliceConfig()) for image in images]
    wanted = [
        (image, size)
        for image, plan in zip(images, plans, strict=True)
        for size in (plan.source_size, plan.refine_size)
        if size is not None
    ]

    def seconds(way: Callable[[Image.Image, tuple[int, int]], Any]) -> float:
        started = time.process_time()
        for image, size in wanted:
            way(image, size)
        return time.process_time() - started

    return seconds(lambda image, size: image.resize(size, Image.Resampling.BICUBIC)) / seconds(resize)


def _seconds(way: Callable[[Path], Any], files: list[Path]) -> float:
    started = time.perf_counter()
    for file in files:
        way(file)
    return time.perf_counter() - started
