"""Holds the settings of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ServerSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Holds limits and defaults of one server."""

    host: str = "127.0.0.1"
    """The address at which the server listens."""
    api_key: str | None = None
    """Key that requests must carry; None if no key is needed."""
    max_batch_size: int = 8
    """Most requests that are answered together."""
    max_queue: int = 64
    """Most complete requests that may wait."""
    batch_delay_seconds: float = 0.01
    """Time that a request to an idle model waits for others."""
    max_length: int | None = None
    """Most tokens of a prompt and its answer; None for the checkpoint's limit."""
    max_new_tokens: int = 1024
    """Longest answer to a request that does not state a length."""
    max_slice_nums: int | None = None
    """Most tiles cut from one picture; by default the checkpoint's own number."""
    enable_thinking: bool = False
    """Whether the model thinks if a request does not state it; 4.5 and later."""
    max_body_bytes: int = 32 * 2**20
    """Largest request, and largest total of its images and films."""
    max_image_pixels: int = 50_000_000
    """Most pixels, width times height, summed over the images of a request."""
    max_video_frames: int = 128
    """Most frames shown, summed over the films of a request."""
    max_video_seconds: float = 600.0
    """Longest film of a request."""
    request_timeout_seconds: float = 300.0
    """Time from the end of a request's headers to its answer's last byte."""
    allowed_image_root: Path | None = None
    """Folder whose image files requests may name; None for no files."""
    allow_remote_images: bool = False
    """Whether images are fetched from the web."""
