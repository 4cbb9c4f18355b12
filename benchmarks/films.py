"""From a film file to pictures, on one core: compared with decoding by PyAV alone, and what memory it takes.

    python -m benchmarks films

The plain way decodes every frame, and makes a picture of those that are kept. What is decoded between kept frames costs
both the same; where key frames lie closer than kept frames, ours jumps. Memory is that of a process which keeps 64
small frames of a short and of a long film: it should not grow with the film.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from minicpmv.data.media.films import Film, inspect_film, read_frames
from minicpmv.processing.pictures.patches import resize

__all__ = ["measure", "write_film"]

_RATE = 25
_MEMORY = """
import sys
from benchmarks.films import peak_of
print(peak_of(sys.argv[1]))
"""


def write_film(path: Path, *, seconds: int, size: tuple[int, int] = (640, 360), key_every: int = 250) -> None:
    """Write H.264 with B frames, of a picture with grain that drifts."""
    width, height = size
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 60, (height, 2 * width, 3), dtype=np.uint8)
    picture += (np.add.outer(np.arange(height), np.arange(2 * width)) // 8 % 190).astype(np.uint8)[..., None]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx264", rate=_RATE, options={"bf": "3", "preset": "ultrafast", "crf": "30"}
        )
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", key_every
        for number in range(seconds * _RATE):
            shift = 2 * number % width
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:, shift : shift + width]), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def peak_of(path: str) -> int:
    """Return the KiB that this process has had in use at most, after 64 frames of a film were kept small."""
    film = Film(source=path)
    seconds = inspect_film(film).duration
    times = [seconds * number / 64 for number in range(64)]
    read_frames(film, times, convert=lambda frame: resize(frame, (64, 36)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _plain(path: str, numbers: Sequence[int]) -> int:
    """Decode everything with PyAV; return how many frames were made pictures."""
    wanted, made = set(numbers), 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                _reduce(frame.to_image())
                made += 1
    return made


def _reduce(frame: Image.Image) -> Image.Image:
    return frame.reduce(8)  # what is kept should not fill memory


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure(*, repetitions: int) -> dict[str, Any]:
    """Time both ways over the same films; return frames per second and ratios, medians over the repetitions."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder, "short.mp4"), Path(folder, "long.mp4")
        write_film(short, seconds=60)
        write_film(long, seconds=600, key_every=50)
        cases = {
            "each frame of 60 s": (short, range(60 * _RATE)),
            "one a second of 60 s": (short, range(0, 60 * _RATE, _RATE)),
            "64 of 600 s": (long, range(0, 600 * _RATE, 600 * _RATE // 64)),
        }
        for name, (path, numbers) in cases.items():
            film, times = Film(source=str(path)), [number / _RATE for number in numbers]
            rounds = [
                (
                    _seconds(lambda film=film, times=times: read_frames(film, times, convert=_reduce)),
                    _seconds(lambda path=path, numbers=numbers: _plain(str(path), numbers)),
                )
                for _ in range(repetitions)
            ]
            ours = statistics.median(own for own, _ in rounds)
            figures[name] = {
                "kept frames per second": len(times) / ours,
                "plain": len(times) / statistics.median(plain for _, plain in rounds),
                "ratio": statistics.median(plain / own for own, plain in rounds),
            }
        header = statistics.median(_seconds(lambda: inspect_film(Film(source=str(short)))) for _ in range(20))
        figures["facts of a film, ms"] = header * 1000
        for name, path in (("60 s", short), ("600 s", long)):
            ended = subprocess.run(
                [sys.executable, "-c", _MEMORY, str(path)], capture_output=True, text=True, check=True
            )
            figures[f"peak memory, {name}, MB"] = int(ended.stdout) / 1024
    return figures
