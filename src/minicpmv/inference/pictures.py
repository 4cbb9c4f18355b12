"""What the vision side makes of pictures: once for each picture, however many records show it.

Each is seen by itself, so its features do not depend on which pictures, or records, came before it.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minicpmv.data.embedded import describe_image
from minicpmv.data.records import Record
from minicpmv.inference.loading import LoadedModel
from minicpmv.processing.images import ImageError, load_image

__all__ = ["SeenPictures", "count_pictures", "name_picture", "open_picture"]

_MOST_BYTES = 256 * 2**20
"""Of features that are kept: of 4.5 in bfloat16 those of 512 slices."""
_GREY = (128, 128, 128)


def count_pictures(record: Record) -> int:
    """Count the pictures that a record's turns show, which are the first of its images."""
    return sum(not isinstance(part, str) for turn in record.turns for part in turn.content)


def name_picture(record: Record, position: int) -> bytes:
    """Tell a picture from others: by the digest of its path, or of its bytes if it is embedded."""
    image = record.images[position]
    return hashlib.sha256(image if isinstance(image, bytes) else b"path " + os.fsencode(image)).digest()


def open_picture(record: Record, position: int, *, blank: bool = False) -> Image.Image:
    """Open one of a record's pictures, or make a grey one of the same size.

    Raises:
        ImageError: It cannot be read, or has another size than when it was looked at.
    """
    size = None if record.image_sizes is None else record.image_sizes[position]
    if blank and size is not None:
        return Image.new("RGB", size, _GREY)
    picture = load_image(record.images[position])
    if size is not None and size != picture.size:
        raise ImageError(
            where=f"{record.where('image')} {describe_image(record.images[position])}",
            found=f"{picture.width}x{picture.height} pixels",
            expected=f"{size[0]}x{size[1]}, as when the data were checked",
            fix="leave image files alone while they are read, and start again",
        )
    return Image.new("RGB", picture.size, _GREY) if blank else picture


class SeenPictures:
    """Features of the pictures that were shown last.

    Args:
        loaded: Who looks at them. Its vision side must not be sharded.
        max_slice_nums: Most tiles of each; the checkpoint's own number if not given.
        blank: Show a grey picture of the same size instead of each.
        max_bytes: Most that is kept; the last is always.
    """

    def __init__(
        self, loaded: LoadedModel, *, max_slice_nums: int | None, blank: bool = False, max_bytes: int = _MOST_BYTES
    ) -> None:
        self._loaded = loaded
        self._max_slice_nums = max_slice_nums
        self._blank = blank
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()
        self._num_bytes = 0
        # 2.5 attends its padding, up to the longest slice of a record: its pictures are seen together.
        self._together = loaded.processor.version.vision_positions == "row"

    def features(self, record: Record) -> Tensor | None:
        """Return the tokens of a record's pictures, (slices, Q, D); None if it has none.

        Raises:
            ImageError: A picture cannot be read.
        """
        positions = range(count_pictures(record))
        groups = [tuple(positions)] if self._together else [(position,) for position in positions]
        return torch.cat([self._find(record, group) for group in groups]) if positions else None

    def _find(self, record: Record, positions: Sequence[int]) -> Tensor:
        key = tuple(self._name(record, position) for position in positions)
        features = self._kept.pop(key, None)
        if features is None:
            features = self._see([open_picture(record, position, blank=self._blank) for position in positions])
            self._num_bytes += features.nbytes
        self._kept[key] = features  # behind all others: what was not asked for longest is dropped first
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._num_bytes -= dropped.nbytes
        return features

    def _name(self, record: Record, position: int) -> object:
        if self._blank and record.image_sizes is not None:
            return record.image_sizes[position]
        return name_picture(record, position)

    @torch.no_grad()
    def _see(self, pictures: Sequence[Image.Image]) -> Tensor:
        processor, device = self._loaded.processor.image_processor, self._loaded.device
        plans = [processor.plan(picture.size, self._max_slice_nums) for picture in pictures]
        patches = [processor.patches(picture, plan) for picture, plan in zip(pictures, plans, strict=True)]
        pixel_values = torch.from_numpy(np.concatenate(patches)).to(device)
        pixel_table = torch.from_numpy(processor.pixel_table()).to(device)
        sizes = torch.tensor([size for plan in plans for size in plan.tgt_sizes], device=device)
        return self._loaded.model.get_image_features(pixel_values, sizes, pixel_table=pixel_table)
