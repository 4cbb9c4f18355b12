"""MiniCPMVProcessor: from a conversation with pictures to the model's inputs, for training and for generation alike.

It loads and saves the files of a checkpoint and reads transformers' messages; ``conversation_processor`` encodes turns.
Both go through ``encoding``, so what is trained is what is run. Batches for training are ``minicpmv.data``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from transformers import BatchFeature

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.processing.batching import as_batch, join_lists, pad_left, times_of_each
from minicpmv.processing.checkpoint_files import check_ids, read_config
from minicpmv.processing.conversation_processor import ConversationProcessor
from minicpmv.processing.decoding import decode_generated
from minicpmv.processing.encoding import EncodedConversation
from minicpmv.processing.films.shown import OpenFilm
from minicpmv.processing.image_processor import MiniCPMVImageProcessor, MiniCPMVImagesKwargs
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.template_options import check_template_options
from minicpmv.processing.text.messages import read_messages
from minicpmv.releases.model_files import check_model_files
from minicpmv.releases.row import find_code
from minicpmv.releases.table import UNSTATED

__all__ = ["EncodedConversation", "MiniCPMOProcessor", "MiniCPMVProcessor"]


class MiniCPMVProcessor(ConversationProcessor):
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
        version, fields = read_config(path, kwargs)
        version = version or image_processor.released_version()
        if version is not None and version.reading.downsample_modes and image_processor.downsample_mode is None:
            image_processor.downsample_mode = fields.get("downsample_mode")
        tokenizer_class = find_code((version or UNSTATED).reading.tokenizer)
        tokenizer = tokenizer_class.from_pretrained(path, **kwargs)
        tokenizer.padding_side = "left"  # pipelines join conversations as the tokenizer says; some files say "right"
        processor = cls(image_processor, tokenizer, version=version)
        check_ids(fields, processor, where=path)
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
                films=[film.plan for film in films],
                continue_final_message=continue_final_message,
                add_generation_prompt=add_generation_prompt,
                max_slice_nums=max_slice_nums,
                use_image_id=use_image_id,
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


class MiniCPMOProcessor(MiniCPMVProcessor):
    """Pictures and text of the MiniCPM-o releases, under the name of the released class; sound is not read."""
