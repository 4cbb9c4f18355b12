"""Makes films whose frames show their number: a test sees which frame it was given, and whether it is turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

__all__ = ["draw_number", "make_animation", "make_film", "make_sound", "number_of"]

_BITS = 8


def draw_number(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Draw 8 stripes, black or white, and a grey bar on top; the lowest bit is on the left."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    for bit in range(_BITS):
        if number >> bit & 1:
            pixels[:, bit * width // _BITS : (bit + 1) * width // _BITS] = 255
    pixels[: height // 4] = 128
    return Image.fromarray(pixels)


def number_of(image: Image.Image) -> int:
    """Read the number that a frame shows; fails if the grey bar is not on top."""
    width, height = image.size
    top, bottom = _brightness(image, width // 2, height // 8), _brightness(image, width // 2, height * 7 // 8)
    assert 96 < top < 160, f"no grey bar on top: {top}"
    assert not 96 < bottom < 160, f"a grey bar at the bottom: {bottom}"
    return sum(
        1 << bit for bit in range(_BITS) if _brightness(image, int((bit + 0.5) * width / _BITS), height * 5 // 8) > 127
    )


def make_film(
    path: Path | str,
    *,
    codec: str = "libx264",
    num_frames: int = 100,
    rate: int = 25,
    size: tuple[int, int] = (64, 48),
    key_every: int = 30,
    milliseconds: Sequence[int] | None = None,
    turned: int = 0,
    tracks: int = 1,
    changes_to: tuple[int, int] | None = None,
    has_sound: bool = False,
    options: Mapping[str, str] | None = None,
) -> str:
    """Write a film, with B frames where the codec has them.

    Args:
        path: Its ending names the container.
        codec: FFmpeg's encoder.
        num_frames: Number of frames, at most 256 of which can be told apart.
        rate: Frames a second.
        size: (width, height) in pixels, as a viewer shows it.
        key_every: Frames from one key frame to the next.
        milliseconds: When each frame is shown, for a rate that varies.
        turned: Degrees clockwise by which a viewer turns the stored frames: 0, 90, 180 or 270.
        tracks: Number of video tracks.
        changes_to: Size of the second half of the frames.
        has_sound: Whether there is a track of silence.
        options: Of the container.

    Returns:
        The path as text.
    """
    stored = (size[1], size[0]) if turned % 180 else size
    base = Fraction(1, 1000) if milliseconds else Fraction(1, rate)
    times = milliseconds or range(num_frames)
    with av.open(str(path), "w", container_options=dict(options or {})) as container:
        streams = [_add_video(container, codec, rate, base, stored, key_every) for _ in range(tracks)]
        if turned:
            streams[0].set_display_rotation(-turned)
        if has_sound:
            _add_silence(container, num_frames / rate)
        half = num_frames // 2 if changes_to else num_frames
        for stream in streams:
            for number in range(half):
                frame = draw_number(number % 256, size).rotate(turned, expand=True)
                container.mux(stream.encode(_frame(frame, times[number], base)))
            container.mux(stream.encode())
        if changes_to:
            _mux_other_size(container, streams[0], changes_to, range(half, num_frames), rate)
    return str(path)


def make_sound(path: Path | str, seconds: float = 1.0) -> str:
    """Write a file with sound alone."""
    with av.open(str(path), "w") as container:
        _add_silence(container, seconds)
    return str(path)


def make_animation(path: Path | str, milliseconds: Sequence[int], size: tuple[int, int] = (64, 48)) -> str:
    """Write a GIF, WebP or APNG whose frames are shown so long."""
    frames = [draw_number(number, size) for number in range(len(milliseconds))]
    lossless: dict[str, Any] = {"lossless": True} if str(path).endswith(".webp") else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=list(milliseconds), loop=0, **lossless)
    return str(path)


def _add_video(
    container: Any,
    codec: str,
    rate: int,
    base: Fraction,
    size: tuple[int, int],
    key_every: int,
) -> Any:
    stream = container.add_stream(codec, rate=rate, options=_options_of(codec))
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.gop_size = key_every
    stream.time_base = stream.codec_context.time_base = base
    return stream


def _options_of(codec: str) -> dict[str, str]:
    return {"bf": "3", "threads": "1", "preset": "veryfast"} if codec == "libx264" else {"threads": "1"}


def _frame(image: Image.Image, time: int, base: Fraction) -> Any:
    frame = av.VideoFrame.from_image(image)
    frame.pts, frame.time_base = time, base
    return frame


def _mux_other_size(container: Any, stream: Any, size: tuple[int, int], numbers: range, rate: int) -> None:
    """Put another encoder's packets into the same track."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height = size
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, rate), Fraction(rate)
    context.options = _options_of("libx264")
    frames = [_frame(draw_number(number, size), number, Fraction(1, rate)) for number in numbers]
    for packet in [packet for frame in [*frames, None] for packet in context.encode(frame)]:
        packet.stream = stream
        container.mux(packet)


def _add_silence(container: Any, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, int(16000 * seconds)), np.float32), format="fltp", layout="mono")
    frame.rate, frame.pts = 16000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _brightness(image: Image.Image, x: int, y: int) -> float:
    pixel = image.getpixel((x, y))
    return sum(pixel) / 3 if isinstance(pixel, tuple) else float(pixel or 0)
