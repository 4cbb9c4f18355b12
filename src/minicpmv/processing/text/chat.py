"""Writes a conversation the way its language model was taught to read it: turns in, text and image segments out.

One dialect per language model, each the released chat template. Segments stay text here; ``tokenization`` makes ids of
them. The kind of a text segment says which part may hold control tokens and which part is trained, so neither is ever
searched for afterwards. Neither torch nor transformers is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from minicpmv.errors import UsageError
from minicpmv.processing.text.thinking import THINK, THOUGHT, split_thinking
from minicpmv.releases.row import find_code
from minicpmv.releases.table import Version

__all__ = [
    "CHATML",
    "LLAMA3",
    "MINICPM",
    "QWEN3",
    "Dialect",
    "ImageRef",
    "ImageSegment",
    "LeftOut",
    "Role",
    "Segment",
    "TextKind",
    "TextSegment",
    "Turn",
    "control_tokens_of",
    "left_out",
    "render",
    "role_tags_of",
    "roles_of",
    "system_of",
]

Role = Literal["system", "user", "assistant"]
TextKind = Literal["template", "content", "answer", "end", "unwritten_end"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Stands in a turn's content where an image goes."""

    index: int
    """Position in the conversation's list of images, from 0."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: tuple[str | ImageRef, ...]
    """Parts in order. They are joined by one newline each, as the released ``chat()`` does, so a part holds no newline
    on the image's account: ``(ImageRef(0), "What is it?")`` reads ``<image>\\nWhat is it?``."""
    weight: float = 1.0
    """How much an assistant turn counts in the training loss, finite and not below 0; with 0 it is only read, as a
    question is. Other turns keep 1. It counts in training only."""

    @property
    def text(self) -> str:
        """What is written in it, without its images."""
        return "\n".join(part for part in self.content if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class TextSegment:
    """A stretch of text."""

    text: str
    kind: TextKind
    """``template``: ours, control tokens in it are meant. ``content``: a user's, control-token text in it stays text.
    ``answer``: as content, and trained. ``end``: the one token that ends an answer, trained. ``unwritten_end``: as end,
    but the token itself is not part of the text, only the prediction of it is trained (2.0, between turns)."""
    weight: float = 1.0
    """How much the tokens of ``answer``, ``end`` and ``unwritten_end`` count in the loss: their turn's weight."""


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """The block of tokens that one image becomes."""

    index: int
    """Position in the conversation's list of images, from 0."""


Segment = TextSegment | ImageSegment


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Text of a turn that the dialect does not write, so that it would not be trained."""

    turn: int
    """Position in the conversation, from 0."""
    found: str
    expected: str
    fix: str


def render(
    turns: Sequence[Turn],
    version: Version,
    *,
    add_generation_prompt: bool,
    enable_thinking: bool | None = None,
    continue_final_message: bool = False,
    default_system: bool = True,
) -> list[Segment]:
    """Write a conversation as its language model reads it.

    Args:
        turns: The conversation, system turn (if any) first.
        version: Selects the dialect.
        add_generation_prompt: Whether to end with the opening of an assistant turn, for the model to go on.
        enable_thinking: How that opening ends, for models with a thinking mode (4.5): False closes the thinking, True
            opens it, None leaves it to the model. Without an opening it has no effect.
        continue_final_message: Whether to end inside the last turn, an assistant's, for the model to go on with it.
        default_system: Whether a conversation without an instruction gets the dialect's own, if that has one.

    Raises:
        UsageError: A role, or a setting, that this version's dialect does not know, an image in a wrong place, or a
            weight that cannot act.
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
    if continue_final_message:
        return _open_end(turns, dialect, add_generation_prompt=add_generation_prompt)
    segments = list(dialect.write(turns, add_generation_prompt))
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


def control_tokens_of(version: Version) -> tuple[str, ...]:
    """Return the control tokens that the templates write; the tokenizer must know every one."""
    return _dialect_of(version).control_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How conversations become text for one language model; a row of the releases names one by dotted name."""

    write: Callable[[Sequence[Turn], bool], Iterator[Segment]]
    control_tokens: tuple[str, ...]
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    plain_role_tags: tuple[str, ...] = ()
    system: str = ""  # the instruction where a conversation brings none
    thinking_openings: Mapping[bool, str] = field(default_factory=dict[bool, str])
    left_out: Callable[[Sequence[Turn]], Iterator[LeftOut]] = lambda turns: iter(())


def _write_minicpm(turns: Sequence[Turn], add_generation_prompt: bool) -> Iterator[Segment]:
    """Write ``<s><用户>question<AI>answer</s>``; between turns an answer just ends where ``<用户>`` begins."""
    yield TextSegment("<s>", "template")
    for position, turn in enumerate(turns):
        if turn.role == "user":
            yield TextSegment("<用户>", "template")
            yield from _content(turn)
        else:
            yield TextSegment("<AI>", "template")
            yield from _answer(turn)
            is_last = position + 1 == len(turns) and not add_generation_prompt
            yield TextSegment("</s>", "end" if is_last else "unwritten_end", turn.weight)
    if add_generation_prompt:
        yield TextSegment("<AI>", "template")


def _write_llama3(turns: Sequence[Turn], add_generation_prompt: bool) -> Iterator[Segment]:
    """Write Llama 3's headers. White space around every message is removed, as the released template does."""
    yield TextSegment("<|begin_of_text|>", "template")
    for turn in turns:
        yield TextSegment(f"<|start_header_id|>{turn.role}<|end_header_id|>\n\n", "template")
        yield from _strip(list(_answer(turn) if turn.role == "assistant" else _content(turn)))
        yield TextSegment("<|eot_id|>", "end" if turn.role == "assistant" else "template", turn.weight)
    if add_generation_prompt:
        yield TextSegment("<|start_header_id|>assistant<|end_header_id|>\n\n", "template")


def _write_chatml(turns: Sequence[Turn], add_generation_prompt: bool) -> Iterator[Segment]:
    """Write ChatML."""
    for turn in turns:
        yield TextSegment(f"<|im_start|>{turn.role}\n", "template")
        if turn.role == "assistant":
            yield from _answer(turn)
            yield TextSegment("<|im_end|>", "end", turn.weight)
            yield TextSegment("\n", "template")
        else:
            yield from _content(turn)
            yield TextSegment("<|im_end|>\n", "template")
    if add_generation_prompt:
        yield TextSegment("<|im_start|>assistant\n", "template")


_DEFAULT_SYSTEM = "You are a helpful assistant."
"""Qwen2's instruction, in the templates of 2.6 and 4.0."""

_NO_THINKING = f"{THINK}\n\n{THOUGHT}\n\n"


def _write_qwen3(turns: Sequence[Turn], add_generation_prompt: bool) -> Iterator[Segment]:
    """Write ChatML with thinking: only answers after the last question keep theirs, and the last one has a block.

    A block that nobody filled is not trained: whoever generates writes it into the prompt.
    """
    asked = _last_question(turns)
    for position, turn in enumerate(turns):
        yield TextSegment(f"<|im_start|>{turn.role}\n", "template")
        if turn.role != "assistant":
            yield from _content(turn)
            yield TextSegment("<|im_end|>\n", "template")
            continue
        answer = split_thinking(turn.text)
        if position > asked and answer.thought:
            # Two pieces, because the first may be the end of a prompt.
            yield TextSegment(f"{THINK}\n", "answer", turn.weight)
            yield TextSegment(f"{answer.thought}\n{THOUGHT}\n\n{answer.text}", "answer", turn.weight)
        elif position > asked and position + 1 == len(turns):
            yield TextSegment(_NO_THINKING, "template")
            yield TextSegment(answer.text.lstrip("\n"), "answer", turn.weight)
        else:
            yield TextSegment(answer.text, "answer", turn.weight)
        yield TextSegment("<|im_end|>", "end", turn.weight)
        yield TextSegment("\n", "template")
    if add_generation_prompt:
        yield TextSegment("<|im_start|>assistant\n", "template")


def _left_out_by_qwen3(turns: Sequence[Turn]) -> Iterator[LeftOut]:
    asked = _last_question(turns)
    for position, turn in enumerate(turns):
        if turn.role != "assistant" or not turn.weight:
            continue
        answer = split_thinking(turn.text)
        if answer.stray:
            yield LeftOut(
                position,
                f"{answer.stray!r:.60} outside of both thinking and answer",
                f"{THINK}...{THOUGHT} once, at the start of the answer",
                f"move it behind {THOUGHT}",
            )
        if position <= asked and answer.thought.strip():
            yield LeftOut(
                position,
                f"thinking before the last question: {answer.thought.strip()!r:.60}",
                "thinking in the last answer only: the format leaves all other out",
                "split the conversation: one that ends with this answer, and one that goes on without this thinking",
            )


def _last_question(turns: Sequence[Turn]) -> int:
    """Return the position of the last user turn, or of the last turn where nobody asks."""
    return max((position for position, turn in enumerate(turns) if turn.role == "user"), default=len(turns) - 1)


MINICPM = Dialect(
    write=_write_minicpm,
    control_tokens=("<s>", "</s>"),
    roles=("user", "assistant"),
    plain_role_tags=("<用户>", "<AI>"),
)
LLAMA3 = Dialect(
    write=_write_llama3,
    control_tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
CHATML = Dialect(write=_write_chatml, control_tokens=("<|im_start|>", "<|im_end|>"), system=_DEFAULT_SYSTEM)
QWEN3 = Dialect(
    write=_write_qwen3,
    control_tokens=("<|im_start|>", "<|im_end|>", THINK, THOUGHT),
    thinking_openings={False: _NO_THINKING, True: f"{THINK}\n"},
    left_out=_left_out_by_qwen3,
)


def _dialect_of(version: Version) -> Dialect:
    return find_code(version.reading.dialect)


def _open_end(turns: Sequence[Turn], dialect: Dialect, *, add_generation_prompt: bool) -> list[Segment]:
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
    segments = list(dialect.write(turns, False))
    ends = [isinstance(segment, TextSegment) and segment.kind == "end" for segment in segments]
    return segments[: len(ends) - 1 - ends[::-1].index(True)]


def _content(turn: Turn) -> Iterator[Segment]:
    for position, part in enumerate(turn.content):
        if position:
            yield TextSegment("\n", "content")
        yield ImageSegment(part.index) if isinstance(part, ImageRef) else TextSegment(part, "content")


def _answer(turn: Turn) -> Iterator[Segment]:
    yield TextSegment(turn.text, "answer", turn.weight)


def _strip(segments: list[Segment]) -> list[Segment]:
    """Remove white space at both ends of a message; an image counts as text."""
    while segments and isinstance(first := segments[0], TextSegment):
        if text := first.text.lstrip():
            segments[0] = replace(first, text=text)
            break
        segments.pop(0)
    while segments and isinstance(last := segments[-1], TextSegment):
        if text := last.text.rstrip():
            segments[-1] = replace(last, text=text)
            break
        segments.pop()
    return segments


def _check(turns: Sequence[Turn], dialect: Dialect, version: Version) -> None:
    if not turns:
        raise UsageError("conversation: found no turn, expected at least one\n  fix: add a user turn")
    for position, turn in enumerate(turns):
        where = f"conversation[{position}]"
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
            raise UsageError(
                f"{where}.content: found an image in a turn of role {turn.role!r}, expected images in user turns only\n"
                "  fix: move the image to a user turn"
            )
        _check_weight(turn, f"{where}.weight")


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
