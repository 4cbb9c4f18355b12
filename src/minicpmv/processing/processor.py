"""MiniCPMVProcessor: from a conversation with pictures to the model's inputs, for training and for generation alike.

``encode_conversation`` is the one way in; ``apply_chat_template`` reads transformers' messages and calls it. What is
trained is therefore what is run. Batches for training are put together by ``minicpmv.data``, not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.models.versions import VERSIONS, Version, detect_version
from minicpmv.processing.chat import ImageSegment, Segment, Turn, render
from minicpmv.processing.image_processor import MiniCPMVImageProcessor, MiniCPMVImagesKwargs
from minicpmv.processing.images import ImageSource, load_image
from minicpmv.processing.messages import read_messages
from minicpmv.processing.released_tokenizers import LlamaTokenizerWrapper, MiniCPMVTokenizerFast
from minicpmv.processing.tokenization import EncodedSample, Vocabulary, encode, spell_out

__all__ = ["EncodedConversation", "MiniCPMVProcessor"]

_PAD_ID = 0  # what the released processors pad with; the attention mask is what counts


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """One conversation as the model reads it."""

    input_ids: list[int]
    labels: list[int]
    """Unshifted, -100 where nothing is trained."""
    image_mask: list[bool]
    """True where an image feature goes: ``query_num`` times per slice."""
    pixel_values: NDArray[np.float32]
    """(patches of all slices, 3 * patch_size ** 2); no rows without an image."""
    tgt_sizes: list[tuple[int, int]]
    """(rows, columns) of each slice in patches, in the order of the text."""


class MiniCPMVProcessor(ProcessorMixin):
    """Tokenizer and image processor of one checkpoint, joined by its chat format.

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
        self.chat_template = getattr(tokenizer, "chat_template", None)
        self._vocabulary: Vocabulary | None = None
        self._vocabulary_of: tuple[int, int] | None = None

    # Loading and saving

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  transformers' options are in kwargs
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> MiniCPMVProcessor:
        """Load from a model directory, or one that ``save_pretrained`` wrote.

        Args:
            pretrained_model_name_or_path: A directory, or a model's name on the hub.
            kwargs: transformers' own loading options, and image settings such as ``max_slice_nums``. Code in the
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
        image_processor = MiniCPMVImageProcessor.from_pretrained(path, **kwargs, **settings)
        version = _stated_version(path, kwargs) or image_processor.released_version()
        tokenizer_class = LlamaTokenizerWrapper if version is VERSIONS["2.0"] else MiniCPMVTokenizerFast
        return cls(image_processor, tokenizer_class.from_pretrained(path, **kwargs), version=version)

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
        """Tokens per slice."""
        return self.image_processor.image_feature_size

    @property
    def use_image_id(self) -> bool:
        """Whether images are numbered in the text."""
        stated = self.image_processor.use_image_id
        return self.version.image_ids if stated is None else stated

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs, the longest one first."""
        return ["input_ids", "attention_mask", "image_mask", "pixel_values", "tgt_sizes"]

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
        add_generation_prompt: bool = False,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        enable_thinking: bool | None = None,
    ) -> EncodedConversation:
        """Encode one conversation: text, labels and pictures.

        Args:
            turns: The conversation.
            images: Its pictures, by the index that ``ImageRef`` names.
            add_generation_prompt: Whether to end where the model shall go on.
            max_slice_nums: Another limit of tiles per picture than the checkpoint's.
            use_image_id: Another numbering of images than the checkpoint's.
            enable_thinking: For models with a thinking mode.

        Raises:
            UsageError: The conversation does not fit the version, or images and text do not fit each other.
            ImageError: A picture cannot be read.
        """
        pictures = [load_image(image) for image in images]
        plans = [self.image_processor.plan(picture.size, max_slice_nums) for picture in pictures]
        segments = render(
            turns, self.version, add_generation_prompt=add_generation_prompt, enable_thinking=enable_thinking
        )
        sample = self._encode(segments, plans, use_image_id)
        order = [segment.index for segment in segments if isinstance(segment, ImageSegment)]
        patches = [self.image_processor.patches(picture, plan) for picture, plan in zip(pictures, plans, strict=True)]
        width = 3 * self.image_processor.patch_size**2
        return EncodedConversation(
            input_ids=sample.input_ids,
            labels=sample.labels,
            image_mask=sample.image_mask,
            pixel_values=np.concatenate([patches[index] for index in order])
            if order
            else np.zeros((0, width), dtype=np.float32),
            tgt_sizes=[size for index in order for size in plans[index].tgt_sizes],
        )

    def encode_text(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[tuple[int, int]] = (),
        *,
        add_generation_prompt: bool = False,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        enable_thinking: bool | None = None,
    ) -> EncodedSample:
        """Encode as ``encode_conversation`` does, but from the pictures' sizes alone: cheap enough to measure lengths.

        Args:
            turns: The conversation.
            image_sizes: (width, height) of each picture in pixels.
            add_generation_prompt: As in ``encode_conversation``.
            max_slice_nums: As there.
            use_image_id: As there.
            enable_thinking: As there.

        Raises:
            UsageError: The conversation does not fit the version, or images and text do not fit each other.
        """
        plans = [self.image_processor.plan(size, max_slice_nums) for size in image_sizes]
        segments = render(
            turns, self.version, add_generation_prompt=add_generation_prompt, enable_thinking=enable_thinking
        )
        return self._encode(segments, plans, use_image_id)

    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]  narrower on purpose
        self,
        conversation: Sequence[Any],
        *,
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        return_dict: bool = True,
        return_tensors: str | None = "pt",
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        enable_thinking: bool | None = None,
    ) -> Any:
        """Make the inputs of ``generate`` from messages in transformers' multimodal format.

        Args:
            conversation: A list of messages, or a list of such lists, which makes a batch padded on the left.
            add_generation_prompt: Whether to end where the model shall go on.
            tokenize: False returns the text, image blocks written out, instead of inputs.
            return_dict: False returns ``input_ids`` only.
            return_tensors: ``"pt"``, ``"np"``, or None for lists.
            max_slice_nums: Another limit of tiles per picture than the checkpoint's.
            use_image_id: Another numbering of images than the checkpoint's.
            enable_thinking: For models with a thinking mode.

        Returns:
            ``input_ids`` and ``attention_mask`` [B, T] int64; with images also ``image_mask`` [B, T] bool,
            ``pixel_values`` [P, 588] float32 and ``tgt_sizes`` [S, 2] int64 over the whole batch.

        Raises:
            UsageError: A message is not understood.
            ImageError: A picture cannot be read.
        """
        if return_tensors not in ("pt", "np", None):
            raise UsageError(f"return_tensors: found {return_tensors!r}, expected 'pt', 'np' or None\n  fix: use 'pt'")
        conversations, is_batch = _as_batch(conversation)
        pairs = [
            read_messages(messages, where=f"conversation[{index}]" if is_batch else "conversation")
            for index, messages in enumerate(conversations)
        ]
        if not tokenize:
            texts = [
                spell_out(
                    render(
                        turns,
                        self.version,
                        add_generation_prompt=add_generation_prompt,
                        enable_thinking=enable_thinking,
                    ),
                    [self.image_processor.plan(load_image(image).size, max_slice_nums) for image in images],
                    self.version,
                    query_num=self.query_num,
                    use_image_id=self.use_image_id if use_image_id is None else use_image_id,
                )
                for turns, images in pairs
            ]
            return texts if is_batch else texts[0]
        encoded = [
            self.encode_conversation(
                turns,
                images,
                add_generation_prompt=add_generation_prompt,
                max_slice_nums=max_slice_nums,
                use_image_id=use_image_id,
                enable_thinking=enable_thinking,
            )
            for turns, images in pairs
        ]
        inputs = _pad_left(encoded, return_tensors)
        return inputs if return_dict else inputs["input_ids"]

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

    def _encode(self, segments: Sequence[Segment], plans: Sequence[Any], use_image_id: bool | None) -> EncodedSample:
        return encode(
            segments,
            plans,
            self.vocabulary,
            self.version,
            query_num=self.query_num,
            use_image_id=self.use_image_id if use_image_id is None else use_image_id,
        )


def _stated_version(path: Any, options: Mapping[str, Any]) -> Version | None:
    """Return the version that ``config.json`` states; an adapter's directory may have none."""
    try:
        fields, _ = PreTrainedConfig.get_config_dict(path, **options)
    except OSError:
        return None
    return detect_version(fields) if fields.get("model_type") == "minicpmv" else None


def _as_batch(conversation: Sequence[Any]) -> tuple[Sequence[Any], bool]:
    """Tell one conversation from a batch of them."""
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise UsageError(
            f"conversation: found {conversation!r:.60}, expected a list of messages, or a list of such lists\n"
            "  fix: pass [{'role': 'user', 'content': ...}]"
        )
    nested = [isinstance(item, (list, tuple)) for item in conversation]
    if any(nested) and not all(nested):
        raise UsageError(
            "conversation: found messages and lists of messages side by side, expected one kind\n"
            "  fix: put every conversation of the batch into its own list"
        )
    return (conversation, True) if nested[0] else ([conversation], False)


def _pad_left(encoded: Sequence[EncodedConversation], return_tensors: str | None) -> BatchFeature:
    length = max(len(sample.input_ids) for sample in encoded)
    input_ids = np.full((len(encoded), length), _PAD_ID, dtype=np.int64)
    attention_mask = np.zeros((len(encoded), length), dtype=np.int64)
    image_mask = np.zeros((len(encoded), length), dtype=bool)
    for row, sample in enumerate(encoded):
        start = length - len(sample.input_ids)
        input_ids[row, start:] = sample.input_ids
        attention_mask[row, start:] = 1
        image_mask[row, start:] = sample.image_mask
    arrays: dict[str, NDArray[Any]] = {"input_ids": input_ids, "attention_mask": attention_mask}
    if image_mask.any():
        sizes = [size for sample in encoded for size in sample.tgt_sizes]
        arrays["image_mask"] = image_mask
        arrays["pixel_values"] = np.concatenate([sample.pixel_values for sample in encoded])
        arrays["tgt_sizes"] = np.array(sizes, dtype=np.int64)
    if return_tensors == "pt":
        return BatchFeature({name: torch.from_numpy(array) for name, array in arrays.items()})
    if return_tensors == "np":
        return BatchFeature(arrays)
    return BatchFeature({name: array.tolist() for name, array in arrays.items()})
