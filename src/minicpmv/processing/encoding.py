"""From the turns, pictures and films of one conversation to everything the model reads of it.

Joins the steps: plans from sizes, frames from the plans of films, blocks from ``temporal_ids``, segments from the
dialect, tokens from the vocabulary, rows from pixels. Each step is its own module; messages and batches are the
processor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minicpmv.errors import UsageError
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.films.shown import ShownFilm
from minicpmv.processing.frames import ImageLayout, lay_out_images
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.processing.text.chat import left_out, render
from minicpmv.processing.text.tools_frame import ToolsFrame
from minicpmv.processing.text.turns import ImageRef, Segment, Turn
from minicpmv.processing.tokens.encode import encode, spell_out
from minicpmv.processing.tokens.vocabulary import Vocabulary
from minicpmv.processing.tokens.writer import EncodedSample
from minicpmv.releases.table import Version

__all__ = ["EncodedConversation", "Writing", "WrittenConversation", "check_nothing_is_left_out", "write_conversation"]


class Writing(TypedDict, total=False):
    """How a conversation is written; what is missing is as the checkpoint, and training, have it."""

    add_generation_prompt: bool
    """Whether to end where the model shall go on. If not, this is a text to train on, and whatever an answer holds must
    be in it."""
    max_slice_nums: int | None
    """Another limit of tiles per picture than the checkpoint's; frames of films have no more."""
    video_max_slice_nums: int | None
    """Most tiles per frame of a film; as officially fed, 1, if not given."""
    use_image_id: bool | None
    """Another numbering of images than the checkpoint's."""
    enable_thinking: bool | None
    """For models with a thinking mode."""
    temporal_ids: Any
    """Groups of time indices over the pictures in the order of the text, for video (4.5). Films have their own."""


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """One conversation as the model reads it."""

    input_ids: list[int]
    labels: list[int]
    """Unshifted, -100 where nothing is trained, answers of weight 0 among it."""
    image_mask: list[bool]
    """True where an image feature goes: ``query_num`` times per slice, or per group of frames."""
    pixel_values: NDArray[np.uint8]
    """(patches of all slices, 3 * patch_size ** 2), as bytes; no rows without an image."""
    tgt_sizes: list[tuple[int, int]]
    """(rows, columns) of each slice in patches, in the order of the text."""
    temporal_ids: list[tuple[int, int]] | None = None
    """For each slice 1 where it opens a block of image slots and 0 where it shares the one before, and its time index,
    -1 for none. None where no times were given."""
    label_weights: list[float] | None = None
    """How much each label counts in the loss, 0.0 where there is none; None where all count alike, as 1."""
    position_rows: NDArray[np.int64] | None = None
    """(3, tokens): time, row and column of each token, for releases whose tokens have three positions (4.7)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenConversation:
    """A conversation in segments, with its images planned: what is left to do is tokens and pixels."""

    segments: list[Segment]
    layout: ImageLayout
    plans: list[SlicePlan]
    """One for each image, and behind them for each frame of each film."""
    film_plans: tuple[FilmPlan, ...]
    """Which frames each film shows."""
    image_processor: MiniCPMVImageProcessor
    version: Version
    use_image_id: bool

    def _image_options(self) -> dict[str, Any]:
        return {
            "token_rule": self.image_processor.token_rule(self.version),
            "use_image_id": self.use_image_id,
            "images_per_block": self.layout.images_per_block,
        }

    def text(self) -> str:
        """Return the text, image blocks written out."""
        return spell_out(self.segments, self.layout.plans(self.plans), self.version, **self._image_options())

    def tokens(self, vocabulary: Vocabulary) -> EncodedSample:
        """Encode the text alone."""
        plans = self.layout.plans(self.plans)
        return encode(self.segments, plans, vocabulary, self.version, **self._image_options())

    def encode(
        self, vocabulary: Vocabulary, pictures: Sequence[Image.Image], films: Sequence[ShownFilm] = ()
    ) -> EncodedConversation:
        """Encode text, pictures and films.

        Pictures and frames are RGB and have the sizes that the plans were made for. Each frame is cut as it is decoded.
        """
        sample = self.tokens(vocabulary)
        plans = iter(self.plans)
        patches = [self.image_processor.patches(picture, next(plans)) for picture in pictures]
        for film in films:
            plan, *_ = islice(plans, len(film.plan.times))  # that of each of its frames
            patches += film.read(partial(self.image_processor.patches, plan=plan))
        none = np.zeros((0, 3 * self.image_processor.patch_size**2), dtype=np.uint8)
        return EncodedConversation(
            input_ids=sample.input_ids,
            labels=sample.labels,
            image_mask=sample.image_mask,
            pixel_values=np.concatenate(self.layout.patches(patches, self.plans)) if patches else none,
            tgt_sizes=self.layout.sizes(self.plans),
            temporal_ids=self.layout.times(self.plans),
            label_weights=sample.label_weights,
            position_rows=sample.position_rows,
        )


def write_conversation(
    turns: Sequence[Turn],
    image_sizes: Sequence[tuple[int, int]],
    image_processor: MiniCPMVImageProcessor,
    version: Version,
    *,
    use_image_id: bool,
    max_slice_nums: int | None = None,
    temporal_ids: Any = None,
    films: Sequence[FilmPlan] = (),
    video_max_slice_nums: int | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    enable_thinking: bool | None = None,
    default_system: bool = True,
    tools_frame: ToolsFrame | None = None,
) -> WrittenConversation:
    """Plan the images and write the text.

    Args:
        turns: The conversation.
        image_sizes: (width, height) of each picture in pixels, by the index that ``ImageRef`` names.
        image_processor: The checkpoint's.
        version: The checkpoint's.
        use_image_id: Whether images are numbered. Frames of films are not, unless a release numbers films (4.6).
        max_slice_nums: Another limit of tiles per picture than the checkpoint's; frames of films have no more.
        temporal_ids: As ``frames.lay_out_images`` reads them.
        films: Plan of each film, by the index that ``FilmRef`` names.
        video_max_slice_nums: Most tiles per frame of a film; as officially fed, 1, if not given.
        add_generation_prompt: As in ``chat.render``.
        continue_final_message: As there.
        enable_thinking: As there.
        default_system: As there.
        tools_frame: As there.

    Raises:
        UsageError: The conversation does not fit the version, or images and text do not fit each other.
    """
    frames = {
        part.index for turn in turns for part in turn.content if isinstance(part, ImageRef) and part.film is not None
    }
    tiles_of_frames = video_max_slice_nums or image_processor.video_max_slice_nums
    if tiles_of_frames is None and version.reading.films is not None:
        tiles_of_frames = version.reading.films.max_slices
    if tiles_of_frames is not None and max_slice_nums is not None and video_max_slice_nums is None:
        tiles_of_frames = min(tiles_of_frames, max_slice_nums)
    plans = [
        image_processor.plan(size, tiles_of_frames if index in frames else max_slice_nums)
        for index, size in enumerate(image_sizes)
    ]
    layout = lay_out_images(turns, num_images=len(plans), version=version, temporal_ids=temporal_ids, films=films)
    for film in films:
        plans += [image_processor.plan(film.size, tiles_of_frames)] * len(film.times)
    segments = render(
        layout.turns,
        version,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        enable_thinking=enable_thinking,
        default_system=default_system,
        tools_frame=tools_frame,
    )
    return WrittenConversation(
        segments=segments,
        layout=layout,
        plans=plans,
        film_plans=tuple(films),
        image_processor=image_processor,
        version=version,
        use_image_id=use_image_id,
    )


def check_nothing_is_left_out(turns: Sequence[Turn], version: Version) -> None:
    """Make sure that an answer is trained as it stands.

    Raises:
        UsageError: The version's format does not write everything that an answer holds.
    """
    for left in left_out(turns, version):
        raise UsageError(
            f"conversation[{left.turn}].content: found {left.found}, expected {left.expected}\n  fix: {left.fix}"
        )
