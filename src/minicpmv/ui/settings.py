"""Holds the settings of the page."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PageSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PageSettings:
    """Holds limits and initial values of one page."""

    host: str = "127.0.0.1"
    """The address at which the page listens."""
    password: str | None = None
    """Password of the page; None lets in everyone who can reach the address."""
    system: str | None = None
    """Initial instruction."""
    max_new_tokens: int = 1024
    """Initial limit on the answer, in tokens."""
    max_slice_nums: int | None = None
    """Initial limit on tiles cut from one picture; by default the checkpoint's own number."""
    enable_thinking: bool = False
    """Whether thinking is on at first; 4.5 and later."""
    max_image_bytes: int = 32 * 2**20
    """Largest image file."""
    max_image_pixels: int = 50_000_000
    """Most pixels, width times height, summed over the images of a question."""
    max_queue: int = 20
    """Most questions that may wait for an answer."""
