"""Writes turns as segments, one dialect for each language model: the released chat templates.

Whether the turns fit a dialect is for ``chat`` to say, which is how the rest of the package asks for all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from minicpmv.processing.text.thinking import THINK, THOUGHT, split_thinking
from minicpmv.processing.text.tool_calls import write_calls
from minicpmv.processing.text.turns import (
    FilmRef,
    ImageRef,
    ImageSegment,
    LeftOut,
    Part,
    Role,
    Segment,
    TextSegment,
    Turn,
)

__all__ = ["CHATML", "LLAMA3", "MINICPM", "QWEN3", "QWEN3_5", "Dialect", "write_instruction"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How conversations become text for one language model; a row of the releases names one by dotted name."""

    write: Callable[[Sequence[Turn], bool], Iterator[Segment]]
    control_tokens: tuple[str, ...]
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    """With ``tool`` among them, it also writes calls."""
    plain_role_tags: tuple[str, ...] = ()
    typed_as_text: tuple[str, ...] = ()
    """Tokens of the format that the tokenizer calls ordinary, and that stay text where somebody types them. The
    tokenizer need not have them all."""
    needs_question: bool = False
    """Whether a conversation without a user turn is refused."""
    system: str = ""
    """The instruction where a conversation brings none."""
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


def _left_out_by_qwen(turns: Sequence[Turn]) -> Iterator[LeftOut]:
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


def _write_qwen3_5(turns: Sequence[Turn], add_generation_prompt: bool) -> Iterator[Segment]:
    """Write ChatML with thinking: every answer after the last question has a block for it, none before has.

    White space around every message is removed. The head of a block is never trained, nor is a block that nobody
    filled: whoever generates writes them into the prompt. Results that follow each other are one turn of the user.
    """
    asked = _last_question(turns)
    for position, turn in enumerate(turns):
        if turn.role == "tool":
            yield from _result(turns, position)
            continue
        yield TextSegment(f"<|im_start|>{turn.role}\n", "template")
        if turn.role != "assistant":
            yield from _strip(list(_content(turn, frames_touch=True)))
            yield TextSegment("<|im_end|>\n", "template")
            continue
        answer = split_thinking(turn.text.strip())
        thought = answer.thought.strip()
        if position > asked and thought:
            yield TextSegment(f"{THINK}\n", "template")
            yield TextSegment(thought, "answer", turn.weight)
            yield TextSegment(f"\n{THOUGHT}\n\n", "answer_format", turn.weight)
        elif position > asked:
            yield TextSegment(_NO_THINKING, "template")
        yield TextSegment(answer.text, "answer", turn.weight)
        for text, is_format in write_calls(turn.calls, behind_text=bool(answer.text.strip())):
            yield TextSegment(text, "answer_format" if is_format else "answer", turn.weight)
        yield TextSegment("<|im_end|>", "end", turn.weight)
        yield TextSegment("\n", "template")
    if add_generation_prompt:
        yield TextSegment("<|im_start|>assistant\n", "template")


def _result(turns: Sequence[Turn], position: int) -> Iterator[Segment]:
    """Write what a tool returned, within the turn of all results around it."""
    is_first = not position or turns[position - 1].role != "tool"
    is_last = position + 1 == len(turns) or turns[position + 1].role != "tool"
    yield TextSegment(f"{'<|im_start|>user' if is_first else ''}\n<tool_response>\n", "template")
    yield from _strip(list(_content(turns[position])))
    yield TextSegment(f"\n</tool_response>{'<|im_end|>' + chr(10) if is_last else ''}", "template")


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
    left_out=_left_out_by_qwen,
)
QWEN3_5 = Dialect(
    write=_write_qwen3_5,
    control_tokens=("<|im_start|>", "<|im_end|>", THINK, THOUGHT),
    roles=("system", "user", "assistant", "tool"),
    typed_as_text=(THINK, THOUGHT, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    needs_question=True,
    thinking_openings={False: _NO_THINKING, True: f"{THINK}\n"},
    left_out=_left_out_by_qwen,
)


def write_instruction(turn: Turn) -> list[Segment]:
    """Write what a system turn says besides the tools that it announces, without white space around it."""
    return _strip(list(_content(turn)))


def _content(turn: Turn, *, frames_touch: bool = False) -> Iterator[Segment]:
    for position, part in enumerate(turn.content):
        if position and not (frames_touch and _are_of_one_film(turn.content[position - 1], part)):
            yield TextSegment("\n", "content")
        assert not isinstance(part, FilmRef), "its frames are written"
        yield ImageSegment(part.index, part.film) if isinstance(part, ImageRef) else TextSegment(part, "content")


def _are_of_one_film(*parts: Part) -> bool:
    films = {part.film if isinstance(part, ImageRef) else None for part in parts}
    return len(films) == 1 and films != {None}


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
