"""Reads from a checkpoint's own chat template how it announces tools, and holds our calls and results against it.

The template is rendered once, for a few short conversations, in a process with limits (``template_child``). Tools are
then written between the texts that it put around those of the conversations, so its words need not be known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.processing.text.chat import render
from minicpmv.processing.text.template_rendering import describe_difference, render_cases
from minicpmv.processing.text.tool_calls import make_call, read_calls, to_json
from minicpmv.processing.text.tools_frame import ToolsFrame
from minicpmv.processing.text.turns import TextSegment, Turn
from minicpmv.releases.table import Version

__all__ = ["read_tools_frame"]

_TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Finds it.", "parameters": {"type": "object"}}}
    for name in ("find_first", "find_second", "find_third")
]
_ASKED = {"role": "user", "content": "Where is it?"}
_INSTRUCTED = {"role": "system", "content": "Answer in one word."}
_ARGUMENTS = {"word": "a cat", "rows": [1, "\u00e9"], "is_all": True, "place": None, "share": 0.5, "by": {"x": False}}
_CALLS = [
    {"type": "function", "function": {"name": "find_first", "arguments": arguments}} for arguments in (_ARGUMENTS, {})
]
_RESULTS = ("Here.", "There.")
_CALLED = [
    _ASKED,
    {"role": "assistant", "content": "I look.", "tool_calls": _CALLS},
    *({"role": "tool", "content": text} for text in _RESULTS),
    {"role": "assistant", "content": "", "tool_calls": _CALLS[1:]},
    {"role": "tool", "content": _RESULTS[0]},
    {"role": "assistant", "content": "Found."},
]
_CASES: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]], ...] = (
    ([_ASKED], _TOOLS[:1]),
    ([_ASKED], _TOOLS),
    ([_INSTRUCTED, _ASKED], _TOOLS[:1]),
    (_CALLED, _TOOLS[:1]),
)


def read_tools_frame(template: str, tokens: Mapping[str, str], version: Version) -> ToolsFrame | None:
    """Find out how a template announces tools.

    Args:
        template: The checkpoint's own.
        tokens: Special tokens by the tokenizer's name for each.
        version: Its release.

    Returns:
        None where the template does not write the tools that it is given.

    Raises:
        CheckpointError: It cannot be rendered, or writes tools, calls or results in another way than is known here.
    """
    cases = [(messages, {"tools": tools, "add_generation_prompt": False}) for messages, tools in _CASES]
    rendered = render_cases(template, cases, tokens)
    first = to_json(_TOOLS[0])
    if "error" in rendered[0]:
        raise _fault(f"it cannot be rendered: {rendered[0]['error']}")
    if _TOOLS[0]["function"]["name"] not in rendered[0]["text"]:
        return None
    for case in rendered:
        if "error" in case:
            raise _fault(f"it cannot be rendered: {case['error']}")
    alone, all_three, instructed, called = (case["text"] for case in rendered)
    rest = _spell([Turn("user", (_ASKED["content"],))], version)
    for text in (alone, instructed):
        if text.count(first) != 1 or not text.endswith(rest):
            raise _fault("tools are not written as one JSON object each, in the system turn")
    opening, _, closing = alone.removesuffix(rest).partition(first)
    between, _, _ = all_three.removeprefix(opening + first).partition(to_json(_TOOLS[1]))
    if opening + between.join(map(to_json, _TOOLS)) + closing + rest != all_three:
        raise _fault("a second tool is not written as the first")
    said = _INSTRUCTED["content"]
    if instructed.count(said) != 1:
        raise _fault("the instruction is not written once beside the tools")
    instruction_first = instructed.index(said) < instructed.index(first)
    one, other = (said, first) if instruction_first else (first, said)
    head, _, tail = instructed.removesuffix(rest).partition(one)
    middle, _, tail = tail.partition(other)
    frame = ToolsFrame(
        alone=(opening, closing), instructed=(head, middle, tail), instruction_first=instruction_first, between=between
    )
    return _compare_calls(frame, called, version)


def _compare_calls(frame: ToolsFrame, theirs: str, version: Version) -> ToolsFrame:
    """Return the frame, with the spelling in which our calls equal the template's."""
    turns = [
        Turn("system", (), tools=(to_json(_TOOLS[0]),)),
        *(
            Turn(
                message["role"],
                (message["content"],),
                calls=tuple(make_call(call) for call in read_calls(message.get("tool_calls", []))),
            )
            for message in _CALLED
        ),
    ]
    spelt = [replace(frame, in_python_words=as_python) for as_python in (False, True)]
    texts = [_spell(turns, version, each) for each in spelt]
    if theirs not in texts:
        raise _fault(f"calls and results differ: {describe_difference(texts[0], theirs)}")
    return spelt[texts.index(theirs)]


def _spell(turns: list[Turn], version: Version, frame: ToolsFrame | None = None) -> str:
    segments = render(turns, version, add_generation_prompt=False, tools_frame=frame)
    return "".join(segment.text for segment in segments if isinstance(segment, TextSegment))


def _fault(found: str) -> CheckpointError:
    return CheckpointError(
        f"chat_template.jinja: found a template that announces tools, but {found}; expected the format of "
        "Qwen3-Coder's calls\n"
        "  fix: use the chat template that belongs to the weights, or leave records with tools out"
    )
