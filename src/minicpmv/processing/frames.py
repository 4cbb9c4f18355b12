"""Puts the images of a conversation into blocks: each its own, or the frames of a film in groups (4.5).

A film's frames are images behind those of the record. ``temporal_ids`` holds one time index for each image, in groups:
``[[0, 1, 2], [3, 4, 5], [-1]]`` is two groups of three frames and a still image. A group takes as many image slots as
one image does. Which frames of a film are shown is its plan's to say (``films``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from minicpmv.errors import UsageError
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.processing.text.turns import FilmRef, ImageRef, Part, Turn
from minicpmv.releases.table import Version
from minicpmv.wording import counted

__all__ = ["ImageBlock", "ImageLayout", "lay_out_images"]

_Item = TypeVar("_Item")
_STILL = -1
"""Time index of an image without time."""


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """Images that share one block of tokens."""

    images: tuple[int, ...]
    """Positions in the conversation's list of images, in the order of the text."""
    times: tuple[int, ...]
    """Time index of each, -1 for none."""


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """The blocks of a conversation, and the conversation with one reference for each block."""

    turns: tuple[Turn, ...]
    """``ImageRef(k)`` is ``blocks[k]``."""
    blocks: tuple[ImageBlock, ...]
    has_time: bool
    """Whether ``temporal_ids`` were given."""

    @property
    def images_per_block(self) -> list[int]:
        """Number of images in each block."""
        return [len(block.images) for block in self.blocks]

    def plans(self, plans: Sequence[SlicePlan]) -> list[SlicePlan]:
        """Return the plan that each block is written by.

        Args:
            plans: One for each image.

        Raises:
            UsageError: Frames of one group are cut differently.
        """
        for number, block in enumerate(self.blocks):
            grids = [plans[index].grid for index in block.images]
            if any(grid != grids[0] for grid in grids):
                sizes = ", ".join("{} x {}".format(*plans[index].image_size) for index in block.images)
                raise _error(
                    f"temporal_ids[{number}]",
                    f"frames that are cut into different tiles ({sizes} pixels)",
                    "frames of one group to be cut alike",
                    "pass max_slice_nums=1, as is usual for video, or frames of one size",
                )
        return [plans[block.images[0]] for block in self.blocks]

    def sizes(self, plans: Sequence[SlicePlan]) -> list[tuple[int, int]]:
        """Return (rows, columns) of each slice in patches: the overviews of a block's images, then their tiles."""
        return self.in_order([plan.tgt_sizes for plan in plans])

    def in_order(self, slices: Sequence[Sequence[_Item]]) -> list[_Item]:
        """Return what belongs to each slice in the order of ``sizes``, given that of each image, slice after slice."""
        return [item for block in self.blocks for item in _side_by_side([slices[image] for image in block.images])]

    def times(self, plans: Sequence[SlicePlan]) -> list[tuple[int, int]] | None:
        """Return for each slice whether it opens a block of query tokens (1 or 0), and its time; None without times."""
        if not self.has_time:
            return None
        return [
            (int(place == 0), time)
            for block in self.blocks
            for _ in range(plans[block.images[0]].num_slices)
            for place, time in enumerate(block.times)
        ]

    def patches(self, patches: Sequence[NDArray[np.uint8]], plans: Sequence[SlicePlan]) -> list[NDArray[np.uint8]]:
        """Return the patch rows of each slice, in the order of ``sizes``.

        Args:
            patches: Rows of each image, slice after slice.
            plans: One for each image.
        """
        ends = [np.cumsum([rows * columns for rows, columns in plan.tgt_sizes])[:-1] for plan in plans]
        return self.in_order([np.split(rows, end) for rows, end in zip(patches, ends, strict=True)])


def lay_out_images(
    turns: Sequence[Turn],
    *,
    num_images: int,
    version: Version,
    temporal_ids: Any = None,
    films: Sequence[FilmPlan] = (),
) -> ImageLayout:
    """Group the images of a conversation.

    Args:
        turns: The conversation; ``ImageRef(i)`` is its image i, ``FilmRef(i)`` its film i.
        num_images: How many images there are, frames of films not counted.
        version: Tells whether the model knows frames.
        temporal_ids: Groups of time indices over the images in the order of the text, as lists, tuples or arrays. None:
            every image is its own block and has no time.
        films: Plan of each film. Its frames are the images behind the others, film after film.

    Raises:
        UsageError: Images and text, films and text, or images and ``temporal_ids``, do not fit each other, or frames of
            one group do not stand side by side in one turn.
    """
    if films and temporal_ids is not None:
        raise _error(
            "temporal_ids",
            "time indices and a film",
            "one of them: a film has the times of its frames",
            "leave temporal_ids out, or give the frames as images",
        )
    shown, of_films = _show_films(turns, films, num_images=num_images)
    if of_films is not None and version.reading.temporal:
        temporal_ids = of_films
    turns, num_images = shown, num_images + sum(len(plan.times) for plan in films)
    order = [part.index for turn in turns for part in turn.content if isinstance(part, ImageRef)]
    if set(order) != set(range(num_images)):
        raise _error(
            "conversation",
            f"references to images {sorted(set(order))} and {counted(num_images, 'image')}",
            "every image to have its place in the text and the other way round",
            "give as many images as the conversation refers to",
        )
    groups = [[_STILL]] * len(order) if temporal_ids is None else _read_groups(temporal_ids, len(order), version)
    images = iter(order)
    blocks = tuple(ImageBlock(tuple(next(images) for _ in group), tuple(group)) for group in groups)
    number_of = [number for number, group in enumerate(groups) for _ in group]
    return ImageLayout(_with_blocks(turns, number_of), blocks, temporal_ids is not None)


def _show_films(
    turns: Sequence[Turn], films: Sequence[FilmPlan], *, num_images: int
) -> tuple[Sequence[Turn], list[list[int]] | None]:
    """Put frames in place of films, and group all images by time; None without a film that has times."""
    places = [part.index for turn in turns for part in turn.content if isinstance(part, FilmRef)]
    if sorted(places) != [*range(len(films))]:
        raise _error(
            "conversation",
            f"references to films {sorted(places)} and {counted(len(films), 'film')}",
            "every film to have one place in the text and the other way round",
            "give as many films as the conversation refers to",
        )
    if not films:
        return turns, None
    firsts = list(accumulate((len(plan.times) for plan in films), initial=num_images))
    groups: list[list[int]] = []
    shown: list[Turn] = []
    for turn in turns:
        parts: list[Part] = []
        for part in turn.content:
            if isinstance(part, ImageRef):
                groups.append([_STILL])
            if not isinstance(part, FilmRef):
                parts.append(part)
                continue
            plan, first = films[part.index], firsts[part.index]
            parts += [ImageRef(first + number, part.index) for number in range(len(plan.times))]
            groups += plan.temporal_ids or [[_STILL]] * len(plan.times)
        shown.append(replace(turn, content=tuple(parts)))
    return shown, groups if any(plan.time_ids is not None for plan in films) else None


def _with_blocks(turns: Sequence[Turn], number_of: Sequence[int]) -> tuple[Turn, ...]:
    """Write one reference for each block; ``number_of`` holds the block's number of each image in order of the text."""
    numbers = iter(number_of)
    seen: set[int] = set()
    grouped: list[Turn] = []
    for position, turn in enumerate(turns):
        parts: list[Part] = []
        before: int | None = None  # the block of the part before, if that is an image
        for part in turn.content:
            if not isinstance(part, ImageRef):
                before = None
                parts.append(part)
                continue
            number = next(numbers)
            if number not in seen:
                seen.add(number)
                parts.append(ImageRef(number, part.film))
            elif number != before:
                raise _error(
                    f"conversation[{position}].content",
                    f"a frame of group {number} of temporal_ids away from the others",
                    "the frames of one group side by side in one turn",
                    "move the frames together, or split the group",
                )
            before = number
        grouped.append(replace(turn, content=tuple(parts)))
    return tuple(grouped)


def _read_groups(temporal_ids: Any, num_images: int, version: Version) -> list[list[int]]:
    if not version.reading.temporal:
        raise _error(
            "temporal_ids",
            "time indices",
            f"nothing: {version.model} has no video mode",
            "leave temporal_ids out; frames are then images like all others",
        )
    groups = _to_lists(temporal_ids)
    if not isinstance(groups, list) or not all(isinstance(group, list) and group for group in groups):
        raise _error(
            "temporal_ids",
            f"{groups!r:.60}",
            "a list of groups, each a list of time indices",
            "write [[0, 1, 2], [3, 4, 5]]",
        )
    for number, group in enumerate(groups):
        for time in group:
            if isinstance(time, bool) or not isinstance(time, int) or time < _STILL:
                raise _error(
                    f"temporal_ids[{number}]",
                    f"{time!r:.60}",
                    "whole numbers from 0, or -1 for an image without time",
                    "write the frame's time in units of 0.1 seconds, such as 15",
                )
    total = sum(len(group) for group in groups)
    if total != num_images:
        raise _error(
            "temporal_ids",
            f"{total} time indices for {counted(num_images, 'image')}",
            "one for each image of the conversation, in the order of the text",
            "add [-1] for every image that is no frame" if total < num_images else "remove the surplus",
        )
    return groups


def _side_by_side(rows: Sequence[Sequence[_Item]]) -> list[_Item]:
    """Return the first items of all rows, then the second ones, and so on."""
    return [item for column in zip(*rows, strict=True) for item in column]


def _to_lists(value: Any) -> Any:
    """Turn tuples and arrays, at any depth, into lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_to_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _error(where: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError(f"{where}: found {found}, expected {expected}\n  fix: {fix}")
