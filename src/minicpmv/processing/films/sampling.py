"""Names the frames that the released code of each release takes, by number, as if the rate of a film were constant.

Each function is one release's way, which its row of the table names. They differ in more than their numbers: some
count steps from the first frame, some spread over all frames. Source: ``encode_video`` in the model cards of 2.6, 4 and
4.5 and of the o models; ``MiniCPMV4_6VideoProcessor.sample_frames`` of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

__all__ = ["Clip", "Limits", "Sample", "by_seconds", "by_steps", "in_groups", "spread"]

_TICK = 0.1
"""Seconds. Between the times over which 4.6 spreads the frames of a long film."""


@dataclass(frozen=True, slots=True)
class Clip:
    """What is to be sampled."""

    num_frames: int
    """At least 1."""
    rate: float
    """Frames a second."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How densely, and how many."""

    fps: float
    """Frames a second that are wanted."""
    max_frames: int
    """Most frames taken."""
    max_blocks: int
    """Most blocks of tokens, where frames share them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The frames taken."""

    indices: Sequence[int]
    """Numbers of frames from 0, ascending; one may stand there twice."""
    group: int = 1
    """Frames that share a block of tokens."""


def spread(num_items: int, num_taken: int) -> list[int]:
    """Return the positions in the middle of so many equal parts.

    >>> spread(10, 3)
    [1, 5, 8]
    """
    gap = num_items / num_taken
    return [int(number * gap + gap / 2) for number in range(num_taken)]


def by_steps(clip: Clip, limits: Limits) -> Sample:
    """Take a frame every so many frames, 1 second by default; if these are too many, spread over them (2.6, 4, o)."""
    step = max(1, round(clip.rate / limits.fps))
    indices = range(0, clip.num_frames, step)
    if len(indices) > limits.max_frames:
        indices = [indices[index] for index in spread(len(indices), limits.max_frames)]
    return Sample(indices)


def in_groups(clip: Clip, limits: Limits) -> Sample:
    """Spread over all frames, 3 a second by default, and group so many that the blocks stay within the most (4.5).

    Where fewer frames are asked for than released code would take, groups are as small as the blocks then allow.
    """
    blocks, wanted = limits.max_blocks, clip.duration * limits.fps
    if limits.fps * int(clip.duration) <= blocks:
        group, taken = 1, round(min(limits.fps, round(clip.rate)) * min(blocks, clip.duration))
    else:
        group, taken = ceil(wanted / blocks), round(wanted)
    if group > ceil(limits.max_frames / blocks) or taken > limits.max_frames:
        taken = min(limits.max_frames, taken)
        group = ceil(taken / blocks)
    taken = max(1, taken)  # a film shorter than a sixth of a second, for which released code divides by zero
    return Sample(spread(clip.num_frames, taken), max(1, group))


def by_seconds(clip: Clip, limits: Limits) -> Sample:
    """Take the frame of each second; of a long film so many, spread from its first to its last tenth of a second (4.6).

    Released code does this for 1 frame a second. For another rate the times lie 1 / fps apart, also those over which
    the frames of a long film are spread if that is less than a tenth of a second.
    """
    last = clip.num_frames - 1
    fps = min(limits.fps, clip.rate)
    if clip.duration * fps <= limits.max_frames:
        return Sample([min(int(number / fps * clip.rate), last) for number in range(ceil(clip.duration * fps))])
    tick = min(_TICK, 1 / fps)
    num_ticks = int(clip.duration / tick)
    taken = np.linspace(0, num_ticks - 1, min(num_ticks, limits.max_frames), dtype=int).tolist()
    return Sample([min(int(round(number * tick, 9) * clip.rate), last) for number in taken])
