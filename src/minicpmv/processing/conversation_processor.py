"""Encodes conversations with pictures and films: in tokens and pixels, or in tokens alone.

It joins a tokenizer and an image processor by the release's chat format. Files of checkpoints, transformers' messages
and batches are ``processor``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.processing.encoding import (
    EncodedConversation,
    Writing,
    WrittenConversation,
    check_nothing_is_left_out,
    write_conversation,
)
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.plan import FilmPlan, plan_film
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.films.shown import OpenedFilm, ShownFilm
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.pictures.patches import ImageSource, load_image
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.processing.text.chat import roles_of, system_of
from minicpmv.processing.text.released_tools import read_tools_frame
from minicpmv.processing.text.tools_frame import ToolsFrame
from minicpmv.processing.text.turns import Turn
from minicpmv.processing.tokens.vocabulary import Vocabulary
from minicpmv.processing.tokens.writer import EncodedSample
from minicpmv.releases.row import TokenRule
from minicpmv.releases.table import VERSIONS, Version

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ConversationProcessor"]


class ConversationProcessor(ProcessorMixin):
    """Encodes conversations by the tokenizer, image processor and chat format of one checkpoint.

    Args:
        image_processor: Cuts pictures.
        tokenizer: The checkpoint's own.
        version: The release, if the image processor's file does not tell it.

    Raises:
        CheckpointError: The release is not known, or the tokenizer is not that release's.
    """

    def __init__(
        self,
        image_processor: MiniCPMVImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        *,
        version: Version | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.image_processor: MiniCPMVImageProcessor
        self.tokenizer: PreTrainedTokenizerFast
        known = version or image_processor.released_version()
        if known is None:
            raise CheckpointError(
                "preprocessor_config.json: found no 'version' and no config.json to tell it, expected one of "
                f"{', '.join(VERSIONS)}\n  fix: keep the model's config.json beside it"
            )
        self.version: Version = known
        image_processor.read_as(known)
        self.chat_template = getattr(tokenizer, "chat_template", None)
        self._vocabulary: Vocabulary | None = None
        self._vocabulary_of: tuple[int, int] | None = None
        self._tools_frame: ToolsFrame | None = None
        self._tools_frame_of: str | None = None

    # What it works with

    @property
    def query_num(self) -> int:
        """Tokens per slice, where they do not depend on its size."""
        return self.image_processor.image_feature_size

    @property
    def token_rule(self) -> TokenRule:
        """How many image tokens a slice has."""
        return self.image_processor.token_rule(self.version)

    @property
    def downsample_mode(self) -> str | None:
        """How far pictures are shrunk, where a file or caller says it (4.6 and later)."""
        return self.image_processor.downsample_mode

    def plan_film(self, facts: FilmFacts, request: FilmRequest) -> FilmPlan:
        """Choose the frames of a film, as the release does.

        Args:
            facts: What its header says.
            request: What is asked of it.

        Raises:
            UsageError: The release takes no films.
        """
        reading = self.version.reading
        if reading.films is None:
            raise UsageError(
                f"film: found one, expected none: {self.version.model} takes none, because {reading.no_films}\n"
                "  fix: take a release that does (2.6 and later)"
            )
        images = self.image_processor
        asked = request.filled(facts, fps=images.video_fps, max_frames=images.max_frames)
        return plan_film(facts, asked, reading.films)

    def show_film(self, film: OpenedFilm) -> ShownFilm:
        """Choose the frames of an opened film; they are decoded when they are asked for."""
        plan = self.plan_film(film.facts, film.request)
        return ShownFilm(plan, lambda convert: film.read(plan.times, convert))

    def tokens_of(self, plan: SlicePlan) -> list[int]:
        """Count the image tokens of each slice of a picture."""
        return [self.token_rule.count(size) for size in plan.tgt_sizes]

    @property
    def image_token_id(self) -> int:
        """The token that holds the place of an image token."""
        return self.vocabulary.slot

    @property
    def use_image_id(self) -> bool:
        """Whether images are numbered in the text."""
        stated = self.image_processor.use_image_id
        return self.version.reading.markup.number is not None if stated is None else stated

    @property
    def default_system(self) -> bool:
        """Whether a conversation without an instruction gets the dialect's own: as the checkpoint's template has it."""
        template = getattr(self.tokenizer, "chat_template", None)
        return template is None or system_of(self.version) in str(template)

    @property
    def tools_frame(self) -> ToolsFrame | None:
        """How the checkpoint's own chat template announces tools; None where it has none, or does not write them.

        It is rendered on the first access, in a process with limits; copies in other processes need not do so again.

        Raises:
            CheckpointError: The template writes tools or calls in a form that is not known here.
        """
        template = self.chat_template
        if not isinstance(template, str):
            return None
        if self._tools_frame_of != template:
            named = ("bos_token", "eos_token", "pad_token", "unk_token")
            tokens = {name: str(token) for name in named if (token := getattr(self.tokenizer, name, None)) is not None}
            self._tools_frame = read_tools_frame(template, tokens, self.version)
            self._tools_frame_of = template
        return self._tools_frame

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs, the longest one first."""
        names = ["input_ids", "attention_mask", "image_mask", "pixel_values", "tgt_sizes"]
        reading = self.version.reading
        more = {"temporal_ids": reading.temporal, "mrope_position_ids": reading.positions is not None}
        return [*names, *(name for name, is_read in more.items() if is_read)]

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer prepared for encoding; made again when the tokenizer is replaced or grows."""
        state = (id(self.tokenizer), len(self.tokenizer))
        if self._vocabulary is None or self._vocabulary_of != state:
            self._vocabulary, self._vocabulary_of = Vocabulary(self.tokenizer, self.version), state
        return self._vocabulary

    # Encoding

    def encode_conversation(
        self,
        turns: Sequence[Turn],
        images: Sequence[ImageSource] = (),
        *,
        films: Sequence[ShownFilm] = (),
        **how: Unpack[Writing],
    ) -> EncodedConversation:
        """Encode one conversation: text, labels, pictures and films.

        Args:
            turns: The conversation.
            images: Its pictures, by the index that ``ImageRef`` names.
            films: Its films, by the index that ``FilmRef`` names.
            **how: Fields of ``Writing``.

        Raises:
            UsageError: The conversation does not fit the version, images and text do not fit each other, or the
                version's format leaves out something of an answer to train on.
            ImageError: A picture or a film cannot be read.
        """
        pictures = [load_image(image) for image in images]
        written = self.write(turns, [each.size for each in pictures], films=[film.plan for film in films], **how)
        return written.encode(self.vocabulary, pictures, films)

    def encode_text(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[tuple[int, int]] = (),
        *,
        films: Sequence[FilmPlan] = (),
        **how: Unpack[Writing],
    ) -> EncodedSample:
        """Encode as ``encode_conversation`` does, but from sizes and plans alone: cheap enough to measure lengths.

        Args:
            turns: The conversation.
            image_sizes: (width, height) of each picture in pixels.
            films: Plan of each film.
            **how: Fields of ``Writing``.

        Raises:
            UsageError: As there.
        """
        return self.write(turns, image_sizes, films=films, **how).tokens(self.vocabulary)

    def write(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[tuple[int, int]] = (),
        *,
        films: Sequence[FilmPlan] = (),
        **how: Unpack[Writing],
    ) -> WrittenConversation:
        """Write a conversation, with its images planned: what is left to do is tokens and pixels.

        Args:
            turns: As in ``encode_text``.
            image_sizes: As there.
            films: As there.
            **how: As there.

        Raises:
            UsageError: As there.
        """
        if not how.get("add_generation_prompt"):
            check_nothing_is_left_out(turns, self.version)
        return self._write(turns, image_sizes, films=films, **how)

    def _write(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[tuple[int, int]],
        *,
        films: Sequence[FilmPlan],
        continue_final_message: bool = False,
        **how: Unpack[Writing],
    ) -> WrittenConversation:
        """Write a conversation as ``write`` does, whatever the format leaves out of its answers."""
        use_image_id = how.get("use_image_id")
        if use_image_id and self.version.reading.markup.number is None:
            raise UsageError(
                f"use_image_id: found True, expected False or nothing: {self.version.model} has no tokens for it\n"
                "  fix: leave use_image_id out"
            )
        rest: dict[str, Any] = {name: value for name, value in how.items() if name != "use_image_id"}
        uses_tools = any(turn.tools or turn.calls for turn in turns) and "tool" in roles_of(self.version)
        return write_conversation(
            turns,
            image_sizes,
            self.image_processor,
            self.version,
            films=films,
            continue_final_message=continue_final_message,
            use_image_id=self.use_image_id if use_image_id is None else use_image_id,
            default_system=self.default_system,
            tools_frame=self.tools_frame if uses_tools else None,
            **rest,
        )
