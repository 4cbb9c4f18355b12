"""``model.chat(...)`` as the official repositories' examples call it, with their defaults.

Reads the official arguments, lets the checkpoint's processor make the prompt, draws tokens as the released code draws
them and returns what it returns. Prompts and pictures are not made here.
Source: ``chat()`` in the released ``modeling_minicpmv.py`` of 2.0, 2.5, 2.6 and 4.5; 4.0 is taken to be as 2.6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.models.answering.answers import (
    THINK_OPENING,
    decode_answer,
    end_token_ids,
    generate_answers,
    released_options,
    stream_answer,
    thinking_setting,
)
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.releases.row import Version, find_code
from minicpmv.wording import name_type

__all__ = ["OfficialChat"]

_Base = PreTrainedModel if TYPE_CHECKING else object


class OfficialChat(_Base):
    """Adds ``chat`` to the model."""

    config: MiniCPMVConfig
    _own_processor: Any = None
    # Processor and tokenizer asked for last, and the processor that joins them.
    _joined_processor: tuple[Any, Any, Any] = (None, None, None)

    def chat(
        self,
        image: Any = None,
        msgs: Any = None,
        tokenizer: Any = None,
        processor: Any = None,
        *,
        context: Any = None,
        vision_hidden_states: Any = None,
        sampling: bool = True,
        stream: bool = False,
        max_new_tokens: int | None = None,
        min_new_tokens: int = 0,
        max_inp_length: int | None = None,
        system_prompt: str = "",
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        temporal_ids: Any = None,
        enable_thinking: bool = False,
        **options: Any,
    ) -> Any:
        """Answer a conversation, or a batch of them.

        Args:
            image: Goes before the text of the first message; for a batch one (or None) for each conversation.
            msgs: ``[{"role": "user", "content": [image, "What is this?"]}]``, that as a JSON string, or a list of such
                conversations. Images are PIL images, or whatever else the processor reads.
            tokenizer: The checkpoint's; the processor's own if not given.
            processor: The checkpoint's; read from ``name_or_path`` if not given.
            context: Of 2.0's examples. Not used, as released: ``msgs`` holds the whole conversation.
            vision_hidden_states: Must be None.
            sampling: Draw tokens at random; else search with 3 beams. ``docs/inference.md`` has the values.
            stream: Return a generator of pieces of the answer. Needs ``num_beams=1`` and a single conversation.
            max_new_tokens: Longest answer, in tokens; 1024 up to 2.5, then 2048.
            min_new_tokens: Shortest answer, in tokens.
            max_inp_length: Longest prompt, in tokens; 2048 up to 2.5, 8192 for 2.6 and 4.0, 16384 for 4.5.
            system_prompt: An instruction before the first message (2.5 and later).
            max_slice_nums: Most tiles of one picture; the checkpoint's own number if not given.
            use_image_id: Whether images are numbered; as the checkpoint has it if not given.
            temporal_ids: For video (4.5): groups of time indices, one index for each frame in ``msgs``, in order.
                Frames of one group share one block of query tokens.
            enable_thinking: Let the model think before it answers (4.5); the answer begins with ``<think>``.
            options: For ``generate()``, before the defaults: ``temperature``, ``num_beams``, ...

        Returns:
            The answer; a list of answers for a batch; a generator with ``stream``. 2.0 returns a tuple as its examples
            expect: the answer, ``msgs`` with the answer, the settings used.

        Raises:
            UsageError: Arguments that cannot work together, or a prompt that is too long.
            ImageError: A picture cannot be read.
            NotFiniteError: The model's logits are not finite. With ``stream`` the generator raises it.
        """
        if isinstance(processor, PreTrainedTokenizerBase):  # 2.0's order: image, msgs, context, tokenizer
            tokenizer, processor = processor, None
        if vision_hidden_states is not None:
            raise UsageError(
                "chat(): found vision_hidden_states, expected None: features computed elsewhere cannot be told to "
                "belong to these pictures\n  fix: pass the pictures"
            )
        version = self.config.minicpmv_version
        thinking = thinking_setting(version, enable_thinking)
        conversations, is_batch = _read_conversations(msgs, image, system_prompt)
        chosen = released_options(version, sampling=sampling, enable_thinking=thinking) | options
        if min_new_tokens > 0:
            chosen["min_new_tokens"] = min_new_tokens
        if stream:
            _check_streaming(chosen, is_batch)
        prepared = self._processor_with(processor, tokenizer)
        inputs = prepared.apply_chat_template(
            conversations,
            max_slice_nums=max_slice_nums,
            use_image_id=use_image_id,
            enable_thinking=thinking,
            temporal_ids=temporal_ids if is_batch or temporal_ids is None else [temporal_ids],
        ).to(self.device)
        _check_lengths(inputs, version.answering.max_input_tokens if max_inp_length is None else max_inp_length)
        ends = end_token_ids(prepared.tokenizer, version)
        limit = max_new_tokens or version.answering.max_new_tokens
        opening = THINK_OPENING if thinking else ""
        settings = {"max_new_tokens": limit, **chosen}
        if stream:
            return stream_answer(
                self, inputs, tokenizer=prepared.tokenizer, options=settings, end_ids=ends, opening=opening
            )
        rows = generate_answers(self, inputs, options=settings, end_ids=ends)
        answers = [opening + decode_answer(prepared.tokenizer, row, ends) for row in rows]
        if is_batch:
            return answers
        if version.answering.returns_history:
            given = json.loads(msgs) if isinstance(msgs, str) else list(msgs)
            return answers[0], [*given, {"role": "assistant", "content": answers[0]}], chosen
        return answers[0]

    def _processor_with(self, processor: Any, tokenizer: Any) -> Any:
        """Return the processor with the tokenizer asked for; a copy, so that its other users keep theirs.

        The copy is kept for the next call: preparing a vocabulary of 150,000 tokens takes seconds.
        """
        if processor is None:
            if self._own_processor is None:
                self._own_processor = _find_processor(self.config.minicpmv_version, self.name_or_path or "")
            processor = self._own_processor
        if tokenizer is None or tokenizer is processor.tokenizer:
            return processor
        source, asked, joined = self._joined_processor
        if source is not processor or asked is not tokenizer:
            joined = copy(processor)
            joined.tokenizer = tokenizer
            self._joined_processor = (processor, tokenizer, joined)
        return joined


def _find_processor(version: Version, path: str) -> Any:
    """Load the processor of a model's directory, of the class that the release's row names: models import none."""
    fix = "pass processor=AutoProcessor.from_pretrained(DIRECTORY), of the directory the model came from"
    if not path:
        raise UsageError(
            f"chat(): found a model without name_or_path, expected one loaded from a directory or the hub\n  fix: {fix}"
        )
    try:
        return find_code(version.reading.processor).from_pretrained(path)
    except (OSError, ValueError, CheckpointError) as error:
        raise UsageError(
            f"chat(): found no processor in {path!r}, expected the checkpoint's tokenizer and image settings there\n"
            f"  fix: {fix}"
        ) from error


def _read_conversations(msgs: Any, image: Any, system_prompt: str) -> tuple[list[list[Any]], bool]:
    """Return conversations as the processor reads them, pictures and instruction included; and whether a batch came."""
    is_batch = isinstance(msgs, (list, tuple)) and len(msgs) > 0 and isinstance(msgs[0], (list, tuple))
    images = image if is_batch and image is not None else [image] * (len(msgs) if is_batch else 1)
    if is_batch and (not isinstance(images, (list, tuple)) or len(images) != len(msgs)):
        found = f"{len(images)}" if isinstance(images, (list, tuple)) else name_type(images)
        raise UsageError(
            f"chat(): found image={found} for a batch, expected a list with one image or None for each of its "
            f"{len(msgs)} conversations\n  fix: put the images into msgs"
        )
    conversations = []
    for number, (one, picture) in enumerate(zip(msgs if is_batch else [msgs], images, strict=True)):
        messages = _read_messages(one, f"msgs[{number}]" if is_batch else "msgs")
        if picture is not None:
            messages[0] = _with_picture(messages[0], picture)
        if system_prompt:
            messages.insert(0, {"role": "system", "content": system_prompt})
        conversations.append(messages)
    return conversations, is_batch


def _read_messages(msgs: Any, where: str) -> list[Any]:
    try:
        messages = json.loads(msgs) if isinstance(msgs, str) else msgs
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}: found a string that is not JSON ({error}), expected a list of messages\n"
            "  fix: write [{'role': 'user', 'content': question}]"
        ) from error
    if not isinstance(messages, (list, tuple)) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise UsageError(
            f"{where}: found {messages!r:.60}, expected a list of messages\n"
            "  fix: write [{'role': 'user', 'content': question}]"
        )
    return list(messages)


def _with_picture(message: Mapping[str, Any], picture: Any) -> dict[str, Any]:
    """Put ``image=`` before the text of the first message, unless the message shows that very image already."""
    content = message.get("content")
    parts = list(content) if isinstance(content, (list, tuple)) else [content]
    if any(part is picture for part in parts):
        return dict(message)
    if any(not isinstance(part, str) and not (isinstance(part, Mapping) and "text" in part) for part in parts):
        raise UsageError(
            "chat(): found an image in image= and another in the first message, expected all in one place (the "
            "released code drops the former in silence)\n  fix: put every image into msgs"
        )
    return {**message, "content": [{"type": "image", "image": picture}, *parts]}


def _check_streaming(options: Mapping[str, Any], is_batch: bool) -> None:
    beams = options.get("num_beams") or 1
    if is_batch:
        raise UsageError(
            "chat(): found stream=True for a batch, expected a single conversation\n"
            "  fix: leave stream out, or ask the conversations one after another"
        )
    if beams > 1:
        raise UsageError(
            f"chat(): found stream=True with {beams} beams, expected num_beams=1: which beam wins is known only at the "
            "end\n  fix: pass num_beams=1 or sampling=True"
        )


def _check_lengths(inputs: Mapping[str, Any], limit: int) -> None:
    """Refuse what the released code cuts off: a prompt without its end, or with half an image, has another meaning."""
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    slots = inputs["image_mask"].sum(dim=1).tolist() if "image_mask" in inputs else [0] * len(lengths)
    for number, (length, images) in enumerate(zip(lengths, slots, strict=True)):
        if length > limit:
            raise UsageError(
                f"msgs[{number}]: found a prompt of {length} tokens, {images} of them for images, expected at most "
                f"max_inp_length={limit}\n  fix: pass a smaller max_slice_nums, ask shorter, or raise max_inp_length"
            )
