"""Writes a conversation the way its language model was taught to read it: turns in, text and image segments out.

There is one dialect for each language model (``dialects``); here it is chosen, and the turns are held against it.
Segments stay text here; ``tokens.encode`` makes ids of them. The kind of a text segment says which part may hold
control tokens and which part is trained, so neither is ever searched for afterwards. It imports neither torch nor
transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from minicpmv.errors import UsageError
from minicpmv.processing.text.dialects import Dialect, write_instruction
from minicpmv.processing.text.tools_frame import ToolsFrame
from minicpmv.processing.text.turns import (
    ImageRef,
    LeftOut,
    Part,
    Role,
    Segment,
    TextSegment,
    Turn,
)
from minicpmv.releases.row import find_code
from minicpmv.releases.table import Version

__all__ = [
    "control_tokens_of",
    "left_out",
    "render",
    "role_tags_of",
    "roles_of",
    "system_of",
    "typed_as_text",
]


def render(
    turns: Sequence[Turn],
    version: Version,
    *,
    add_generation_prompt: bool,
    enable_thinking: bool | None = None,
    continue_final_message: bool = False,
    default_system: bool = True,
    tools_frame: ToolsFrame | None = None,
) -> list[Segment]:
    """Write a conversation as its language model reads it.

    Args:
        turns: The conversation, system turn (if any) first.
        version: Selects the dialect.
        add_generation_prompt: Whether to end with the opening of an assistant turn, for the model to go on.
        enable_thinking: How that opening ends, for models with a thinking mode (4.5 and later): False closes the
            thinking, True opens it, None leaves it to the model. Without an opening it has no effect.
        continue_final_message: Whether to end inside the last turn, an assistant's, for the model to go on with it.
        default_system: Whether a conversation without an instruction gets the dialect's own, if that has one.
        tools_frame: How the checkpoint's template announces tools; needed where a system turn has some.

    Raises:
        UsageError: A role, or a setting, that this version's dialect does not know, an image in a wrong place, a
            weight that cannot act, or tools that cannot be announced.
    """
    dialect = _dialect_of(version)
    if enable_thinking is not None and not version.reading.thinking:
        raise UsageError(
            f"enable_thinking: found {enable_thinking}, expected nothing: {version.model} has no thinking mode\n"
            "  fix: leave enable_thinking out"
        )
    _check(turns, dialect, version)
    adds_system = default_system and bool(dialect.system) and turns[0].role != "system"
    if adds_system:
        turns = [Turn("system", (dialect.system,)), *turns]
    if tools_frame is not None:
        turns = tools_frame.adapt(turns)
    if continue_final_message:
        return _open_end(turns, dialect, tools_frame, add_generation_prompt=add_generation_prompt)
    segments = _write(turns, dialect, tools_frame, add_generation_prompt=add_generation_prompt)
    if adds_system:  # the format's words, not the user's
        segments[1] = TextSegment(dialect.system, "template")
    if add_generation_prompt and enable_thinking is not None:
        segments.append(TextSegment(dialect.thinking_openings[enable_thinking], "template"))
    return segments


def left_out(turns: Sequence[Turn], version: Version) -> Iterator[LeftOut]:
    """Yield what the dialect does not write of answers to be trained. In a prompt, and with weight 0, that is right."""
    yield from _dialect_of(version).left_out(turns)


def roles_of(version: Version) -> tuple[Role, ...]:
    """Return the roles a conversation may have; ``system``, where listed, stands only at the start."""
    return _dialect_of(version).roles


def system_of(version: Version) -> str:
    """Return the instruction of a conversation that brings none; empty where the dialect has none."""
    return _dialect_of(version).system


def role_tags_of(version: Version) -> tuple[str, ...]:
    """Return role tags that are written in ordinary text, not control tokens, so that content must not spell them."""
    return _dialect_of(version).plain_role_tags


def typed_as_text(version: Version) -> tuple[str, ...]:
    """Return tokens that the tokenizer calls ordinary, and that stay text where somebody types them."""
    return _dialect_of(version).typed_as_text


def control_tokens_of(version: Version) -> tuple[str, ...]:
    """Return the control tokens that the templates write; the tokenizer must know every one."""
    return _dialect_of(version).control_tokens


def _dialect_of(version: Version) -> Dialect:
    return find_code(version.reading.dialect)


def _write(
    turns: Sequence[Turn], dialect: Dialect, frame: ToolsFrame | None, *, add_generation_prompt: bool
) -> list[Segment]:
    """Write a conversation, its tools within the texts of the checkpoint's template."""
    first, *rest = turns
    if not first.tools:
        return list(dialect.write(turns, add_generation_prompt))
    if frame is None:
        raise UsageError(
            "tools: found tools, and a chat template that does not write them, expected one that does: how they are "
            "announced is read from the checkpoint's own\n"
            "  fix: add the released chat_template.jinja to the model's directory, or leave the tools out"
        )
    return [*frame.write(first.tools, write_instruction(first)), *dialect.write(rest, add_generation_prompt)]


def _open_end(
    turns: Sequence[Turn], dialect: Dialect, frame: ToolsFrame | None, *, add_generation_prompt: bool
) -> list[Segment]:
    """Write a conversation up to the last character of its last turn."""
    if add_generation_prompt:
        raise UsageError(
            "continue_final_message: found it beside add_generation_prompt, expected one of them\n"
            "  fix: leave add_generation_prompt out"
        )
    if turns[-1].role != "assistant":
        raise UsageError(
            f"continue_final_message: found a last turn of role {turns[-1].role!r}, expected the assistant's\n"
            "  fix: add the beginning of the answer, or leave continue_final_message out"
        )
    segments = _write(turns, dialect, frame, add_generation_prompt=False)
    ends = [isinstance(segment, TextSegment) and segment.kind == "end" for segment in segments]
    return segments[: len(ends) - 1 - ends[::-1].index(True)]


def _check(turns: Sequence[Turn], dialect: Dialect, version: Version) -> None:
    if not turns:
        raise UsageError("conversation: found no turn, expected at least one\n  fix: add a user turn")
    for position, turn in enumerate(turns):
        where = f"conversation[{position}]"
        _check_tools(turns, position, dialect, version)
        if turn.role not in dialect.roles:
            fix = "use one of those roles"
            if turn.role == "system":
                fix = "put the instruction at the start of the first user turn"
            raise UsageError(
                f"{where}.role: found {turn.role!r}, expected one of {', '.join(dialect.roles)} "
                f"for {version.model}\n  fix: {fix}"
            )
        if turn.role == "system" and position:
            raise UsageError(
                f"{where}.role: found a system turn after others, expected it first\n  fix: move it to the start"
            )
        if turn.role != "user" and any(isinstance(part, ImageRef) for part in turn.content):
            kind = "a film" if any(_is_frame(part) for part in turn.content) else "an image"
            raise UsageError(
                f"{where}.content: found {kind} in a turn of role {turn.role!r}, expected images in user turns only\n"
                f"  fix: move the {kind.split()[1]} to a user turn"
            )
        if version.reading.films is None and any(_is_frame(part) for part in turn.content):
            raise UsageError(
                f"{where}.content: found a film, expected none: {version.model} takes none, because "
                f"{version.reading.no_films}\n  fix: take a release that does (2.6 and later)"
            )
        _check_weight(turn, f"{where}.weight")
    if dialect.needs_question and all(turn.role != "user" for turn in turns):
        raise UsageError(
            f"conversation: found no user turn, expected one: the format of {version.model} needs it\n"
            "  fix: add the question"
        )


def _check_tools(turns: Sequence[Turn], position: int, dialect: Dialect, version: Version) -> None:
    """Make sure that tools, calls and results are where they can be."""
    turn, where = turns[position], f"conversation[{position}]"
    if turn.tools or turn.calls or turn.role == "tool":
        found = "tools" if turn.tools else "calls of tools" if turn.calls else "the result of a tool"
        if "tool" not in dialect.roles:
            raise UsageError(
                f"{where}: found {found}, expected none: {version.model} was trained without\n"
                "  fix: leave the tools out, or take a release that knows them (4.6 and later)"
            )
        role = "system" if turn.tools else "assistant"
        if turn.role not in (role, "tool") or (turn.role == "tool" and (turn.tools or turn.calls)):
            raise UsageError(
                f"{where}: found {found} in a turn of role {turn.role!r}, expected them in one of role {role!r}\n"
                "  fix: move them there"
            )
    if turn.role == "tool" and not (position and (turns[position - 1].calls or turns[position - 1].role == "tool")):
        raise UsageError(
            f"{where}.role: found a result without a call before it, expected the answer that calls the tool\n"
            "  fix: add the call to the answer before, or leave the result out"
        )


def _is_frame(part: Part) -> bool:
    return isinstance(part, ImageRef) and part.film is not None


def _check_weight(turn: Turn, where: str) -> None:
    if not (math.isfinite(turn.weight) and turn.weight >= 0):
        raise UsageError(
            f"{where}: found {turn.weight}, expected a finite number from 0 on\n"
            "  fix: give 1, or 0 for an answer that is only read"
        )
    if turn.role != "assistant" and turn.weight != 1:
        raise UsageError(
            f"{where}: found {turn.weight} on a turn of role {turn.role!r}, expected 1: only answers are trained\n"
            "  fix: leave the weight out, or move it to the answer"
        )
