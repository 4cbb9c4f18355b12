"""How a checkpoint's own template announces tools is read from it, and calls are held against it."""

from __future__ import annotations

import pytest

from minicpmv.errors import CheckpointError
from minicpmv.processing.text.released_tools import read_tools_frame
from minicpmv.processing.text.template_rendering import render_cases
from minicpmv.processing.text.tools_frame import ToolsFrame
from minicpmv.processing.text.turns import TextSegment
from minicpmv.releases.table import VERSIONS
from tests.parity.cases import FIXTURES
from tests.tool_templates import AS_PYTHON, with_tools

VERSION = VERSIONS["4.6"]


def read(template: str) -> ToolsFrame | None:
    return read_tools_frame(template, {}, VERSION)


@pytest.mark.parametrize("instruction_first", [False, True])
@pytest.mark.parametrize("instruction", ["", "Be brief."])
def test_the_system_turn_is_the_template_s(instruction: str, *, instruction_first: bool) -> None:
    template = with_tools(instruction_first=instruction_first)
    frame = read(template)
    assert frame is not None
    tools = ['{"type": "function", "function": {"name": "a"}}', '{"type": "function", "function": {"name": "é <b>"}}']
    said = frame.write(tools, [TextSegment(instruction, "content")] if instruction else [])
    kinds = [segment.kind for segment in said if isinstance(segment, TextSegment)]
    assert kinds == [*["template", "content"] * (len(said) // 2), "template"]
    messages = [{"role": "system", "content": instruction}] if instruction else []
    given = [{"type": "function", "function": {"name": name}} for name in ("a", "é <b>")]
    case = ([*messages, {"role": "user", "content": "Why?"}], {"tools": given})
    (rendered,) = render_cases(template, [case], {})
    ours = "".join(segment.text for segment in said if isinstance(segment, TextSegment))
    assert rendered["text"] == f"{ours}<|im_start|>user\nWhy?<|im_end|>\n"


def test_how_truth_is_spelt_is_the_template_s() -> None:
    frames = [read(with_tools()), read(with_tools(value=AS_PYTHON))]
    assert [frame.in_python_words for frame in frames if frame is not None] == [False, True]


def test_a_template_that_knows_no_tools_has_no_frame() -> None:
    assert read((FIXTURES / "v4_6" / "chat_template.jinja").read_text(encoding="utf-8")) is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("(tool | tojson)", "tool.function.name", "tools are not written as one JSON object each"),
        ("{{- '\\n' + (tool", "{{- loop.index ~ (tool", "a second tool is not written as the first"),
        ("<parameter=' + name", "<argument=' + name", r"calls and results differ: .*<parameter=word>.*<argument=word>"),
        ("<tool_response>\\n' + content", "<tool_response>' + content", "calls and results differ"),
        ("You may call:\\n", "' + messages[0].nothing.at.all + '", "it cannot be rendered: UndefinedError"),
        ("+ (text_of(messages[0].content, true) | trim)", "", "the instruction is not written once"),
    ],
)
def test_a_template_of_another_format_is_refused_by_what_differs(old: str, new: str, why: str) -> None:
    template = with_tools()
    assert old in template
    with pytest.raises(CheckpointError, match=rf"announces tools, but {why}"):
        read(template.replace(old, new))
