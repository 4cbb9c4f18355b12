"""Turns a request into the model's inputs: checked and counted at once, decoded only when its batch begins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from minicpmv.errors import CheckpointError, MiniCPMVError, UsageError
from minicpmv.inference.loading import LoadedModel
from minicpmv.models.answering.answers import thinking_setting
from minicpmv.processing.encoding import EncodedConversation
from minicpmv.processing.text.chat import roles_of
from minicpmv.processing.text.tool_calls import to_json
from minicpmv.processing.text.turns import Turn, announce_tools
from minicpmv.serving.errors import RequestError, refused
from minicpmv.serving.requests.chat_request import ChatRequest
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

    def encode(self, loaded: LoadedModel) -> EncodedConversation:
        """Decode the images and make the model's inputs.

        Raises:
            RequestError: An image is damaged after its header.
        """
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
    try:
        thinking = thinking_setting(loaded.processor.version, thinks)
        pictures = read_pictures(request.addresses, settings)
        sample = loaded.processor.encode_text(
            turns,
            [picture.size for picture in pictures],
            add_generation_prompt=True,
            max_slice_nums=settings.max_slice_nums,
            enable_thinking=thinking,
        )
    except MiniCPMVError as error:
        raise _refused(error, num_added=len(turns) - len(request.turns)) from error
    num_tokens, longest = len(sample.input_ids), context_length(loaded, settings)
    room = longest - num_tokens
    if room < (request.max_tokens or 1):
        asked = f" and an answer of up to {request.max_tokens}" if request.max_tokens else ""
        raise refused(
            "messages",
            f"a prompt of {num_tokens} tokens{asked}",
            f"at most {longest} tokens together",
            "shorten the conversation, send fewer or smaller images, or lower max_tokens",
            code="context_length_exceeded",
        )
    return Prompt(
        turns=turns,
        pictures=pictures,
        num_tokens=num_tokens,
        max_new_tokens=request.max_tokens or min(settings.max_new_tokens, room),
        max_slice_nums=settings.max_slice_nums,
        enable_thinking=thinking,
        tools=request.tools,
    )


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
