"""MiniCPMVProcessor: from a conversation with pictures to the model's inputs, for training and for generation alike.

``encode_conversation`` takes turns, for training; ``apply_chat_template`` takes transformers' messages, for generation.
Both go through ``encoding``, so what is trained is what is run. Batches for training are ``minicpmv.data``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.processing.batching import as_batch, join_lists, pad_left, times_of_each
from minicpmv.processing.decoding import decode_generated
from minicpmv.processing.encoding import (
    EncodedConversation,
    WrittenConversation,
    check_nothing_is_left_out,
    write_conversation,
)
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.plan import FilmPlan, plan_film
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.films.shown import OpenedFilm, OpenFilm, ShownFilm
from minicpmv.processing.image_processor import MiniCPMVImageProcessor, MiniCPMVImagesKwargs
from minicpmv.processing.pictures.patches import ImageSource, load_image
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.processing.template_options import check_template_options
from minicpmv.processing.text.chat import roles_of, system_of
from minicpmv.processing.text.messages import read_messages
from minicpmv.processing.text.released_tools import read_tools_frame
from minicpmv.processing.text.tools_frame import ToolsFrame
from minicpmv.processing.text.turns import Turn
from minicpmv.processing.tokenization import EncodedSample, Vocabulary
from minicpmv.releases.model_files import check_model_files
from minicpmv.releases.row import TokenRule, find_code
from minicpmv.releases.table import UNSTATED, VERSIONS, Version, detect_version, is_model_type

__all__ = ["EncodedConversation", "MiniCPMOProcessor", "MiniCPMVProcessor"]


class MiniCPMVProcessor(ProcessorMixin):
    """Tokenizer and image processor of one checkpoint, joined by its chat format.

    Args:
        image_processor: Cuts pictures.
        tokenizer: The checkpoint's own.
        version: The release, if the image processor's file does not tell it.

    Raises:
        CheckpointError: The release is not known, or the tokenizer is not that release's.
    """

    film_opener: ClassVar[OpenFilm | None] = None
    """Opens the films that messages name; ``minicpmv.registration`` sets it, since decoders are above this room."""

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

    # Loading and saving

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  transformers' options are in kwargs
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> MiniCPMVProcessor:
        """Load from a model directory, or one that ``save_pretrained`` wrote.

        Args:
            pretrained_model_name_or_path: A directory, or a model's name on the hub.
            kwargs: transformers' own loading options, and image settings such as ``max_slice_nums``, or
                ``downsample_mode`` (4.6 and later), which the model must be loaded with as well. Code in the
                directory is never run, whatever ``trust_remote_code`` says.

        Raises:
            CheckpointError: The directory is not a MiniCPM-V's.
        """
        for unused in ("trust_remote_code", "use_fast", "config", "_from_auto", "_commit_hash"):
            kwargs.pop(unused, None)
        path = pretrained_model_name_or_path
        settings = {key: kwargs.pop(key) for key in list(kwargs) if key in MiniCPMVImagesKwargs.__annotations__}
        if isinstance(path, (str, Path)) and Path(path).exists() and not Path(path).is_dir():
            raise CheckpointError(f"{path}: found a file, expected a model directory\n  fix: give the directory's path")
        if isinstance(path, (str, Path)) and (folder := Path(path, kwargs.get("subfolder") or "")).is_dir():
            check_model_files(folder)
        image_processor = MiniCPMVImageProcessor.from_pretrained(path, **kwargs, **settings)
        version, fields = _read_config(path, kwargs)
        version = version or image_processor.released_version()
        if version is not None and version.reading.downsample_modes and image_processor.downsample_mode is None:
            image_processor.downsample_mode = fields.get("downsample_mode")
        tokenizer_class = find_code((version or UNSTATED).reading.tokenizer)
        tokenizer = tokenizer_class.from_pretrained(path, **kwargs)
        tokenizer.padding_side = "left"  # pipelines join conversations as the tokenizer says; some files say "right"
        processor = cls(image_processor, tokenizer, version=version)
        _check_ids(fields, processor, where=path)
        return processor

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write ``preprocessor_config.json`` and the tokenizer's files in the released layout.

        Args:
            save_directory: Made if it is not there.
            push_to_hub: Must be False; ``push_to_hub()`` uploads.
            kwargs: Ignored, as transformers passes options of other processors.

        Raises:
            UsageError: ``push_to_hub`` is set.
        """
        if push_to_hub:
            raise UsageError(
                "save_pretrained: found push_to_hub=True, expected False\n  fix: call processor.push_to_hub(name)"
            )
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        stated = self.image_processor.released_version()
        if stated is not self.version:
            self.image_processor.minicpmv_version = self.version.name
        files = self.image_processor.save_pretrained(save_directory)
        return [*files, *self.tokenizer.save_pretrained(save_directory)]

    def to_dict(self) -> dict[str, Any]:
        """Describe the processor; what is needed to load it again is in the files of its two halves."""
        return {"processor_class": type(self).__name__, "version": self.version.name} | {
            "image_processor": self.image_processor.to_dict()
        }

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
        add_generation_prompt: bool = False,
        max_slice_nums: int | None = None,
        video_max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        enable_thinking: bool | None = None,
        temporal_ids: Any = None,
    ) -> EncodedConversation:
        """Encode one conversation: text, labels, pictures and films.

        Args:
            turns: The conversation.
            images: Its pictures, by the index that ``ImageRef`` names.
            films: Its films, by the index that ``FilmRef`` names.
            add_generation_prompt: Whether to end where the model shall go on. If not, this is a text to train on, and
                whatever an answer holds must be in it.
            max_slice_nums: Another limit of tiles per picture than the checkpoint's.
            video_max_slice_nums: Most tiles per frame of a film; 1 if not given.
            use_image_id: Another numbering of images than the checkpoint's.
            enable_thinking: For models with a thinking mode.
            temporal_ids: Groups of time indices over the pictures in the order of the text, for video (4.5). Films
                have their own.

        Raises:
            UsageError: The conversation does not fit the version, images and text do not fit each other, or the
                version's format leaves out something of an answer to train on.
            ImageError: A picture or a film cannot be read.
        """
        pictures = [load_image(image) for image in images]
        if not add_generation_prompt:
            check_nothing_is_left_out(turns, self.version)
        written = self._write(
            turns,
            [picture.size for picture in pictures],
            use_image_id,
            add_generation_prompt=add_generation_prompt,
            max_slice_nums=max_slice_nums,
            films=[film.plan for film in films],
            video_max_slice_nums=video_max_slice_nums,
            enable_thinking=enable_thinking,
            temporal_ids=temporal_ids,
        )
        return written.encode(self.vocabulary, pictures, films)

    def encode_text(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[tuple[int, int]] = (),
        *,
        films: Sequence[FilmPlan] = (),
        add_generation_prompt: bool = False,
        max_slice_nums: int | None = None,
        video_max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        enable_thinking: bool | None = None,
        temporal_ids: Any = None,
    ) -> EncodedSample:
        """Encode as ``encode_conversation`` does, but from sizes and plans alone: cheap enough to measure lengths.

        Args:
            turns: The conversation.
            image_sizes: (width, height) of each picture in pixels.
            films: Plan of each film.
            add_generation_prompt: As in ``encode_conversation``.
            max_slice_nums: As there.
            video_max_slice_nums: As there.
            use_image_id: As there.
            enable_thinking: As there.
            temporal_ids: As there.

        Raises:
            UsageError: As there.
        """
        if not add_generation_prompt:
            check_nothing_is_left_out(turns, self.version)
        written = self._write(
            turns,
            image_sizes,
            use_image_id,
            add_generation_prompt=add_generation_prompt,
            max_slice_nums=max_slice_nums,
            films=films,
            video_max_slice_nums=video_max_slice_nums,
            enable_thinking=enable_thinking,
            temporal_ids=temporal_ids,
        )
        return written.tokens(self.vocabulary)

    def write(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[tuple[int, int]] = (),
        *,
        films: Sequence[FilmPlan] = (),
        max_slice_nums: int | None = None,
        video_max_slice_nums: int | None = None,
    ) -> WrittenConversation:
        """Write a conversation to train on, with its images planned: what is left to do is tokens and pixels.

        Args:
            turns: As in ``encode_text``.
            image_sizes: As there.
            films: As there.
            max_slice_nums: As there.
            video_max_slice_nums: As there.

        Raises:
            UsageError: As there.
        """
        check_nothing_is_left_out(turns, self.version)
        return self._write(
            turns,
            image_sizes,
            None,
            films=films,
            max_slice_nums=max_slice_nums,
            video_max_slice_nums=video_max_slice_nums,
        )

    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]  narrower on purpose
        self,
        conversation: Sequence[Any],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tokenize: bool | None = None,
        return_dict: bool = True,
        return_tensors: str | None = "auto",
        max_slice_nums: int | None = None,
        video_max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        enable_thinking: bool | None = None,
        temporal_ids: Any = None,
        tools: Any = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Make the inputs of ``generate`` from messages in transformers' multimodal format.

        Args:
            conversation: A list of messages, or a list of such lists, which makes a batch; its tensors are padded
                on the left. A film is a part ``{"type": "video", "video": path}``, or with the paths of frames, and if
                wanted ``start``, ``end``, ``fps``, ``max_frames`` or ``times``; or with a film that was opened before.
            add_generation_prompt: Whether to end where the model shall go on; True unless it shall go on with the last
                message.
            continue_final_message: Whether the last message is the beginning of the answer.
            tokenize: False returns the text, image blocks written out, instead of inputs. Left out, it is True.
            return_dict: False returns ``input_ids`` only.
            return_tensors: ``"pt"``, ``"np"``, or None for lists, each conversation as long as it is unless
                ``padding=True`` asks for more. ``"auto"`` is ``"pt"``, for ``generate``; but None where
                ``tokenize=True`` is written out, as callers that know transformers' own processors expect.
            max_slice_nums: Another limit of tiles per picture than the checkpoint's.
            video_max_slice_nums: Most tiles per frame of a film; 1 if not given.
            use_image_id: Another numbering of images than the checkpoint's.
            enable_thinking: Whether the model shall think before it answers (4.5). By default it shall not: as the
                released ``chat()``, and as it is trained here.
            temporal_ids: For video (4.5): groups of time indices over the images in the order of the text, such as
                ``[[0, 1, 2], [3, 4, 5]]``, -1 for an image without time. The frames of one group share one block of
                image slots. For a batch a list of such lists, with None for a conversation without times.
            tools: Functions that the model may call (4.6 and later), in OpenAI's form; the same for a whole batch.
            processor_kwargs: More of these arguments, as transformers' pipelines pass them.
            options: Others that transformers knows, if they ask for what is done anyway, such as ``padding=True``.

        Returns:
            ``input_ids`` and ``attention_mask`` [B, T] int64; with images also ``image_mask`` [B, T] bool,
            ``pixel_values`` [P, 588] float32 and ``tgt_sizes`` [S, 2] int64 over the whole batch; with times also
            ``temporal_ids`` [S, 2] int64, whether a slice opens a block, and its time; where tokens have three
            positions each (4.7) ``mrope_position_ids`` [3, B, T] int64.

        Raises:
            UsageError: A message is not understood, or an option could not act.
            ImageError: A picture or a film cannot be read.
        """
        if processor_kwargs:
            own = {
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
                "tokenize": tokenize,
                "return_dict": return_dict,
                "return_tensors": return_tensors,
                "max_slice_nums": max_slice_nums,
                "video_max_slice_nums": video_max_slice_nums,
                "use_image_id": use_image_id,
                "enable_thinking": enable_thinking,
                "temporal_ids": temporal_ids,
                "tools": tools,
            }
            return self.apply_chat_template(conversation, **(own | options | dict(processor_kwargs)))
        conversations, is_batch = as_batch(conversation)
        if return_tensors == "auto":
            return_tensors = None if tokenize else "pt"
        check_template_options(options, may_be_unpadded=return_tensors is None or len(conversations) == 1)
        times = times_of_each(temporal_ids, len(conversations)) if is_batch else [temporal_ids]
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        if enable_thinking is None and self.version.reading.thinking:
            enable_thinking = False
        texts: list[str] = []
        encoded: list[EncodedConversation] = []
        for index, messages in enumerate(conversations):
            turns, images, opened = read_messages(
                messages,
                where=f"conversation[{index}]" if is_batch else "conversation",
                tools=tools,
                open_film=self.film_opener,
            )
            pictures = [load_image(image) for image in images]
            films = [self.show_film(film) for film in opened]
            written = self._write(
                turns,
                [picture.size for picture in pictures],
                use_image_id,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                max_slice_nums=max_slice_nums,
                films=[film.plan for film in films],
                video_max_slice_nums=video_max_slice_nums,
                enable_thinking=enable_thinking,
                temporal_ids=times[index],
            )
            if tokenize is not False:
                encoded.append(written.encode(self.vocabulary, pictures, films))
            else:
                texts.append(written.text())
        if tokenize is False:
            return texts if is_batch else texts[0]
        if return_tensors is None and options.get("padding") not in (True, "longest"):
            inputs = join_lists(encoded, self.image_processor)
        else:
            inputs = pad_left(encoded, self.image_processor, return_tensors)
        return inputs if return_dict else inputs["input_ids"]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **options: Any
    ) -> list[str]:
        """Decode what ``generate`` returned, as transformers' pipelines ask for it.

        Args:
            generated_outputs: [B, T] or [T] token ids, with or without the prompt.
            skip_special_tokens: Leave out padding and the format's control tokens; markup such as ``<box>`` stays.
            options: Passed on to the tokenizer.
        """
        rows = generated_outputs.tolist() if hasattr(generated_outputs, "tolist") else list(generated_outputs)
        if rows and isinstance(rows[0], int):
            rows = [rows]
        if not skip_special_tokens:
            return [str(self.tokenizer.decode(row, **options)) for row in rows]
        return [decode_generated(row, self.tokenizer, self.version, **options) for row in rows]

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Refuse: where an image goes in a bare text is a guess; messages say it.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "processor(...): found a call with bare text or images, expected messages\n"
            "  fix: processor.apply_chat_template([{'role': 'user', 'content': [{'type': 'image', 'image': path}, "
            "{'type': 'text', 'text': question}]}])"
        )

    def _write(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[tuple[int, int]],
        use_image_id: bool | None,
        **how: Any,
    ) -> WrittenConversation:
        """Write a conversation; ``how`` as ``write_conversation`` knows it."""
        if use_image_id and self.version.reading.markup.number is None:
            raise UsageError(
                f"use_image_id: found True, expected False or nothing: {self.version.model} has no tokens for it\n"
                "  fix: leave use_image_id out"
            )
        uses_tools = any(turn.tools or turn.calls for turn in turns) and "tool" in roles_of(self.version)
        return write_conversation(
            turns,
            image_sizes,
            self.image_processor,
            self.version,
            use_image_id=self.use_image_id if use_image_id is None else use_image_id,
            default_system=self.default_system,
            tools_frame=self.tools_frame if uses_tools else None,
            **how,
        )


class MiniCPMOProcessor(MiniCPMVProcessor):
    """Pictures and text of the MiniCPM-o releases, under the name of the released class; sound is not read."""


def _check_ids(config: Mapping[str, Any], processor: MiniCPMVProcessor, *, where: object) -> None:
    """Make sure that tokens whose ids ``config.json`` states (4.6 and later) have these ids in the tokenizer.

    Raises:
        CheckpointError: One has another.
    """
    markup = processor.version.reading.markup
    named = {
        "image_token_id": markup.slot,
        "video_token_id": markup.frame_slot,
        **dict(zip(("image_start_id", "image_end_id"), markup.image, strict=True)),
        **dict(zip(("slice_start_id", "slice_end_id"), markup.tile, strict=True)),
    }
    for key in (*named, "newline_id"):
        stated, token = config.get(key), named.get(key)
        if stated is None or (key in named and token is None):
            continue
        expected = processor.vocabulary.newline if token is None else processor.vocabulary[token]
        if stated != expected:
            raise CheckpointError(
                f"{where}: {key}: found {stated} in config.json and {expected} in the tokenizer, expected one id for "
                f"{named.get(key, chr(10))!r}\n  fix: use the files that belong to the weights"
            )


def _read_config(path: Any, options: Mapping[str, Any]) -> tuple[Version | None, Mapping[str, Any]]:
    """Return the version that ``config.json`` states, and its fields; an adapter's directory may have none."""
    try:
        fields, _ = PreTrainedConfig.get_config_dict(path, **options)
    except OSError:
        return None, {}
    return (detect_version(fields), fields) if is_model_type(fields.get("model_type")) else (None, {})
