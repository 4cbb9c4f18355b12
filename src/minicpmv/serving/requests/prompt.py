"""Turns a request into the model's inputs: checked and counted at once, decoded only when its batch begins.

Films are decoded at once, since that takes long and may fail; what the model sees of them waits in a temporary file.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from minicpmv.errors import CheckpointError, MiniCPMVError, UsageError
from minicpmv.inference.loading import LoadedModel
from minicpmv.models.answering.answers import thinking_setting
from minicpmv.processing.encoding import EncodedConversation, Writing
from minicpmv.processing.text.chat import roles_of
from minicpmv.processing.text.tool_calls import to_json
from minicpmv.processing.text.turns import Turn, announce_tools
from minicpmv.serving.errors import RequestError, refused
from minicpmv.serving.requests.chat_request import ChatRequest
from minicpmv.serving.requests.request_films import open_films
from minicpmv.serving.requests.request_images import Picture, read_pictures
from minicpmv.serving.settings import ServerSettings

__all__ = ["Prompt", "context_length", "prepare"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Holds a request that can be answered, with its images still encoded, which takes far less memory."""

    turns: list[Turn]
    pictures: list[Picture]
    num_tokens: int
    max_new_tokens: int
    max_slice_nums: int | None
    enable_thinking: bool | None
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the answer may call."""
    encoded: EncodedConversation | None = None
    """The inputs of a request with films, whose pixels are on the disk."""

    def encode(self, loaded: LoadedModel) -> EncodedConversation:
        """Decode the images and make the model's inputs.

        Raises:
            RequestError: An image is damaged after its header.
        """
        if self.encoded is not None:
            return self.encoded
        try:
            return loaded.processor.encode_conversation(
                self.turns,
                [picture.content for picture in self.pictures],
                add_generation_prompt=True,
                max_slice_nums=self.max_slice_nums,
                enable_thinking=self.enable_thinking,
            )
        except MiniCPMVError as error:
            raise _refused(error) from error


def context_length(loaded: LoadedModel, settings: ServerSettings) -> int:
    """Return the most tokens of a prompt and its answer.

    Raises:
        UsageError: The settings exceed the checkpoint's limit.
    """
    made_for = cast("int", loaded.model.config.text_config.max_position_embeddings)  # pyright: ignore[reportAttributeAccessIssue]
    if settings.max_length is not None and settings.max_length > made_for:
        raise UsageError(
            f"--max-length: found {settings.max_length}, expected at most {made_for}, the checkpoint's limit\n"
            "  fix: use a smaller one, or leave it out"
        )
    return settings.max_length or made_for


def prepare(request: ChatRequest, loaded: LoadedModel, settings: ServerSettings) -> Prompt:
    """Get the images of a request and count its tokens.

    Raises:
        RequestError: The request cannot be answered.
    """
    thinks = settings.enable_thinking if request.enable_thinking is None else request.enable_thinking
    if request.turns[-1].role not in ("user", "tool"):
        raise refused("messages", "an answer at the end", "a user's message at the end", "leave the answer out")
    if request.tools:
        _check_tools(loaded)
    turns = announce_tools(tuple(map(to_json, request.tools)), request.turns) if request.tools else request.turns
    encoded = None
    try:
        thinking = thinking_setting(loaded.processor.version, thinks)
        how: Writing = {
            "add_generation_prompt": True,
            "max_slice_nums": settings.max_slice_nums,
            "enable_thinking": thinking,
        }
        pictures = read_pictures(request.addresses, settings)
        bytes_left = settings.max_body_bytes - sum(len(picture.content) for picture in pictures)
        with open_films(request.films, loaded.processor, settings, bytes_left=bytes_left) as films:
            sizes, plans = [picture.size for picture in pictures], [film.plan for film in films]
            sample = loaded.processor.encode_text(turns, sizes, films=plans, **how)
            num_tokens = len(sample.input_ids)
            room = _find_room(request, num_tokens, context_length(loaded, settings))
            if films:
                contents = [picture.content for picture in pictures]
                encoded = _put_aside(loaded.processor.encode_conversation(turns, contents, films=films, **how))
    except MiniCPMVError as error:
        raise _refused(error, num_added=len(turns) - len(request.turns)) from error
    return Prompt(
        turns=turns,
        pictures=pictures,
        num_tokens=num_tokens,
        max_new_tokens=request.max_tokens or min(settings.max_new_tokens, room),
        max_slice_nums=settings.max_slice_nums,
        enable_thinking=thinking,
        tools=request.tools,
        encoded=encoded,
    )


def _find_room(request: ChatRequest, num_tokens: int, longest: int) -> int:
    """Return the most tokens of the answer."""
    room = longest - num_tokens
    if room < (request.max_tokens or 1):
        asked = f" and an answer of up to {request.max_tokens}" if request.max_tokens else ""
        frames = ", ask for fewer frames of films (max_frames)" if request.films else ""
        raise refused(
            "messages",
            f"a prompt of {num_tokens} tokens{asked}",
            f"at most {longest} tokens together",
            f"shorten the conversation, send fewer or smaller images{frames}, or lower max_tokens",
            code="context_length_exceeded",
        )
    return room


def _put_aside(encoded: EncodedConversation) -> EncodedConversation:
    """Move pixels to a file without a name, which is gone when nobody refers to it any more."""
    with tempfile.TemporaryFile() as file:
        pixels = np.memmap(file, encoded.pixel_values.dtype, "w+", shape=encoded.pixel_values.shape)
    pixels[:] = encoded.pixel_values
    return replace(encoded, pixel_values=pixels)


def _check_tools(loaded: LoadedModel) -> None:
    """Make sure that the model's release and its chat template know tools."""
    version = loaded.processor.version
    if "tool" not in roles_of(version):
        found, expected = "tools", f"none: {version.model} was trained without"
        raise refused("tools", found, expected, "leave them out, or serve a release that knows them (4.6 and later)")
    try:
        frame = loaded.processor.tools_frame
    except CheckpointError as error:
        raise RequestError(400, f"tools: {error}", param="tools") from error
    if frame is None:
        expected = "none: the chat template of the served model does not write them"
        fix = "leave them out, or add the released chat_template.jinja to the model's directory"
        raise refused("tools", "tools", expected, fix)


def _refused(error: MiniCPMVError, *, num_added: int = 0) -> RequestError:
    """Word an error of the conversation for the request, whose messages are its turns after those that were added."""
    message = str(error)
    if message.startswith("conversation"):
        message = f"messages{message.removeprefix('conversation')}"
        message = re.sub(r"^messages\[(\d+)\]", lambda place: f"messages[{int(place[1]) - num_added}]", message)
    return RequestError(400, message, param="messages")
