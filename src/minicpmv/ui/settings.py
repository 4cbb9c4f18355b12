"""What the page allows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PageSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PageSettings:
    """Limits of one page, and what it starts with."""

    host: str = "127.0.0.1"
    """The address at which the page listens."""
    password: str | None = None
    """Whoever opens the page must know it; None lets everybody in who reaches the address."""
    system: str | None = None
    """The instruction that the page starts with."""
    max_new_tokens: int = 1024
    """Longest answer that the page starts with."""
    max_slice_nums: int | None = None
    """Most tiles cut from one picture that the page starts with; the checkpoint's own number if not given."""
    enable_thinking: bool = False
    """Whether the model thinks when the page is opened; 4.5 only."""
    max_image_bytes: int = 32 * 2**20
    """Of one image file."""
    max_image_pixels: int = 50_000_000
    """Width times height, summed over the images of a question."""
    max_queue: int = 20
    """Questions that may wait for an answer."""
