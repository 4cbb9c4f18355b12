"""Computes the vision features of pictures and films, once for each, however many records show it.

Each picture is computed separately, so its features do not depend on the pictures or records before it. A record with a
film is computed as a whole: frames that share a block are resampled together, and other records that show the same
pictures and films in the same order have the same features.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import OrderedDict
from collections.abc import Container, Iterable, MutableMapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from minicpmv.data.media.opened_films import ReadFilm
from minicpmv.data.records.inline_images import describe_image
from minicpmv.data.records.record import Record
from minicpmv.data.samples.length_policy import plan_films
from minicpmv.errors import ImageError
from minicpmv.inference.loading import LoadedModel
from minicpmv.processing.films.shown import Convert, ShownFilm
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import FilmRef, ImageRef

__all__ = [
    "Opened",
    "SeenPictures",
    "ShownAs",
    "count_films",
    "count_pictures",
    "name_film",
    "name_picture",
    "open_picture",
    "show_film",
]

ShownAs = Literal["they are", "blank", "shuffled"]
"""How pictures and frames are shown: ``blank`` is grey of the same size; ``shuffled`` shows the frames of each film in
another order, and pictures as they are."""

_MOST_BYTES = 256 * 2**20
"""Most bytes of cached features (for 4.5 in bfloat16 those of 512 slices), and of pixels opened ahead."""
_GREY = (128, 128, 128)


def count_pictures(record: Record) -> int:
    """Count the pictures that a record's turns show; they are the first of its images."""
    return sum(isinstance(part, ImageRef) for turn in record.turns for part in turn.content)


def count_films(record: Record) -> int:
    """Count the films that a record's turns show; they are the first of its films."""
    return sum(isinstance(part, FilmRef) for turn in record.turns for part in turn.content)


def name_picture(record: Record, position: int) -> bytes:
    """Return an identifier of a picture: a digest of its path, or of its bytes if it is embedded."""
    image = record.images[position]
    return hashlib.sha256(image if isinstance(image, bytes) else b"path " + os.fsencode(image)).digest()


def name_film(record: Record, position: int) -> bytes:
    """Return an identifier of a film and of what is asked of its frames."""
    shown = record.films[position], record.film_plans and record.film_plans[position]
    return hashlib.sha256(b"film " + repr(shown).encode(errors="surrogateescape")).digest()


def show_film(processor: MiniCPMVProcessor, record: Record, position: int, shown_as: ShownAs = "they are") -> ShownFilm:
    """Choose the frames of one of a record's films, which are decoded when they are asked for.

    Shuffled frames stand in an order of their own for each film, which its name decides: one order for all films would
    keep what frames next to each other tell. The times that the model is told do not move.

    Raises:
        UsageError: The release takes no films.
    """
    assert record.film_facts is not None, "headers are read with the record"
    facts = record.film_facts[position]
    film, plan = record.films[position], plan_films(record, processor)[position]
    opened = ReadFilm(film, facts)

    def read(convert: Convert) -> Sequence[Any]:
        if shown_as == "blank":
            return [convert(Image.new("RGB", plan.size, _GREY))] * len(plan.times)
        frames = list(opened.read(plan.times, convert))
        if shown_as == "shuffled":
            random.Random("/".join(film.name.split(os.sep)[-2:])).shuffle(frames)
        return frames

    return ShownFilm(plan, read)


def open_picture(record: Record, position: int, *, blank: bool = False) -> Image.Image:
    """Open one of a record's pictures, or make a grey one of the same size.

    Raises:
        ImageError: It cannot be read, or its size has changed since the data were checked.
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


_Key = tuple[object, ...]
"""Names the pictures that are seen together, and how they are cut."""


class Opened(NamedTuple):
    """Pictures that are computed together, as patches."""

    patches: list[NDArray[np.uint8]]
    """(patches of all its slices, 588) of each picture."""
    sizes: list[tuple[int, int]]
    """(rows, columns) in patches of each slice."""
    times: list[tuple[int, int]] | None = None
    """As ``EncodedConversation.temporal_ids``."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the patches in memory."""
        return sum(rows.nbytes for rows in self.patches)


class SeenPictures:
    """Caches the features of the most recent pictures.

    Args:
        loaded: The model. Its vision side must not be sharded.
        shown_as: How pictures and frames are shown.
        max_bytes: Most bytes to cache; the last picture is always kept.
    """

    def __init__(self, loaded: LoadedModel, *, shown_as: ShownAs = "they are", max_bytes: int = _MOST_BYTES) -> None:
        self._loaded = loaded
        self._shown_as: ShownAs = shown_as
        self._blank = shown_as == "blank"
        self._max_bytes = max_bytes
        self._kept: OrderedDict[_Key, Tensor] = OrderedDict()
        self._num_bytes = 0
        self._opened_last: Container[_Key] = ()
        # 2.5 attends its padding, up to the longest slice of a record, so a record's pictures are computed together.
        self._together = loaded.processor.version.network.vision_positions == "row"

    def open(self, asked: Iterable[tuple[Record, int | None]]) -> dict[_Key, Opened]:
        """Open the pictures that :meth:`features` will need for these records, within the memory limit.

        A thread may do so while another computes earlier records. Pictures beyond the limit are opened when needed.

        Args:
            asked: Records, and the most tiles of their pictures.

        Raises:
            ImageError: A picture cannot be read.
            FilmError: A film cannot be read.
        """
        opened: dict[_Key, Opened] = {}
        num_bytes = 0
        for record, max_slice_nums in asked:
            for group in self._groups(record):
                key = self._key(record, group, max_slice_nums)
                if key in opened or key in self._opened_last or key in self._kept or num_bytes > _MOST_BYTES:
                    continue
                opened[key] = self._open(record, group, max_slice_nums)
                num_bytes += opened[key].num_bytes
        self._opened_last = frozenset(opened)
        return opened

    def features(
        self, record: Record, max_slice_nums: int | None, opened: MutableMapping[_Key, Opened] | None = None
    ) -> Tensor | None:
        """Return the tokens of a record's pictures and films, (slices, Q, D); None if it has none.

        Args:
            record: The record with the pictures.
            max_slice_nums: Most tiles of each; by default the checkpoint's number.
            opened: Pictures from :meth:`open`; those used are removed.

        Raises:
            ImageError: A picture cannot be read.
            FilmError: A film cannot be read.
        """
        groups = self._groups(record)
        found = [self._find(record, group, max_slice_nums, {} if opened is None else opened) for group in groups]
        return torch.cat(found) if found else None

    def _groups(self, record: Record) -> list[tuple[int, ...]]:
        """Return the positions of the pictures that are computed together; with films all, and the films with them."""
        positions = tuple(range(count_pictures(record)))
        if count_films(record):
            return [positions]
        if self._together:
            return [positions] if positions else []
        return [(position,) for position in positions]

    def _find(
        self,
        record: Record,
        positions: Sequence[int],
        max_slice_nums: int | None,
        opened: MutableMapping[_Key, Opened],
    ) -> Tensor:
        key = self._key(record, positions, max_slice_nums)
        features = self._kept.pop(key, None)
        if features is None:
            features = self._see(opened.pop(key, None) or self._open(record, positions, max_slice_nums))
            self._num_bytes += features.nbytes
        self._kept[key] = features  # to the end: the least recently used is dropped first
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._num_bytes -= dropped.nbytes
        return features

    def _key(self, record: Record, positions: Sequence[int], max_slice_nums: int | None) -> _Key:
        if not count_films(record):
            return (max_slice_nums, *(self._name(record, position) for position in positions))
        parts = [part for turn in record.turns for part in turn.content if not isinstance(part, str)]
        names = (
            name_film(record, part.index) if isinstance(part, FilmRef) else self._name(record, part.index)
            for part in parts
        )
        return (max_slice_nums, *names)

    def _name(self, record: Record, position: int) -> object:
        if self._blank and record.image_sizes is not None:
            return record.image_sizes[position]
        return name_picture(record, position)

    def _open(self, record: Record, positions: Sequence[int], max_slice_nums: int | None) -> Opened:
        pictures = [open_picture(record, position, blank=self._blank) for position in positions]
        if num_films := count_films(record):
            return self._open_films(record, num_films, pictures, max_slice_nums)
        processor = self._loaded.processor.image_processor
        plans = [processor.plan(picture.size, max_slice_nums) for picture in pictures]
        patches = [processor.patches(picture, plan) for picture, plan in zip(pictures, plans, strict=True)]
        return Opened(patches, [size for plan in plans for size in plan.tgt_sizes])

    def _open_films(
        self, record: Record, num_films: int, pictures: Sequence[Image.Image], max_slice_nums: int | None
    ) -> Opened:
        processor = self._loaded.processor
        films = [show_film(processor, record, number, self._shown_as) for number in range(num_films)]
        encoded = processor.encode_conversation(
            record.turns, pictures, films=films, add_generation_prompt=True, max_slice_nums=max_slice_nums
        )
        return Opened([encoded.pixel_values], encoded.tgt_sizes, encoded.temporal_ids)

    @torch.no_grad()
    def _see(self, opened: Opened) -> Tensor:
        device = self._loaded.device
        pixel_values = torch.from_numpy(np.concatenate(opened.patches)).to(device)
        pixel_table = torch.from_numpy(self._loaded.processor.image_processor.pixel_table()).to(device)
        sizes = torch.tensor(opened.sizes, device=device)
        times = None if opened.times is None else torch.tensor(opened.times, device=device)
        return self._loaded.model.get_image_features(pixel_values, sizes, temporal_ids=times, pixel_table=pixel_table)
