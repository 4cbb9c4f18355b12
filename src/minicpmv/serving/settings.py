"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ServerSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Limits and defaults of one server."""

    host: str = "127.0.0.1"
    """The address at which the server listens."""
    api_key: str | None = None
    """Whoever asks for an answer must send it; None lets everybody ask."""
    max_batch_size: int = 8
    """Requests that are answered together."""
    max_queue: int = 64
    """Whole requests that may wait."""
    batch_delay_seconds: float = 0.01
    """How long a request that finds the model idle waits for others."""
    max_length: int | None = None
    """Tokens of a prompt and its answer; None for what the checkpoint was made for."""
    max_new_tokens: int = 1024
    """Longest answer to a request that does not say how long it may be."""
    max_slice_nums: int | None = None
    """Most tiles cut from one picture; the checkpoint's own number if not given."""
    enable_thinking: bool = False
    """Whether the model thinks where a request does not say; 4.5 only."""
    max_body_bytes: int = 32 * 2**20
    """Of a request. Of its images that come from elsewhere, too, all together."""
    max_image_pixels: int = 50_000_000
    """Width times height, summed over the images of a request."""
    request_timeout_seconds: float = 300.0
    """From the end of a request's headers to its answer's last byte."""
    allowed_image_root: Path | None = None
    """Requests may name image files in this folder; None for no files."""
    allow_remote_images: bool = False
    """Whether images are fetched from the web."""
