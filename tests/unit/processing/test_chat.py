from __future__ import annotations

import subprocess
import sys

import pytest

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.models.versions import VERSIONS
from minicpmv.processing.chat import ImageRef, ImageSegment, TextSegment, Turn, render, roles_of

QUESTION = Turn("user", (ImageRef(0), "What?"))
ANSWER = Turn("assistant", ("A cat.",))


def written(version: str, *turns: Turn, prompt: bool = False) -> str:
    """Spell segments out, answers in square brackets, images as {index}, ends that are not written as ^."""
    marks = {"answer": "[{}]", "end": "[{}]", "unwritten_end": "^", "template": "{}", "content": "{}"}
    segments = render(turns, VERSIONS[version], add_generation_prompt=prompt)
    return "".join(
        f"{{{segment.index}}}" if isinstance(segment, ImageSegment) else marks[segment.kind].format(segment.text)
        for segment in segments
    )


def test_minicpm_ends_only_the_last_answer_in_writing() -> None:
    turns = (QUESTION, ANSWER, Turn("user", ("Sure?",)), Turn("assistant", ("Yes.",)))
    assert written("2.0", *turns) == "<s><用户>{0}\nWhat?<AI>[A cat.]^<用户>Sure?<AI>[Yes.][</s>]"
    assert written("2.0", *turns[:3], prompt=True) == "<s><用户>{0}\nWhat?<AI>[A cat.]^<用户>Sure?<AI>"


def test_llama3_ends_every_answer() -> None:
    head = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{0}\nWhat?<|eot_id|>"
    opening = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert written("2.5", QUESTION, ANSWER) == head + opening + "[A cat.][<|eot_id|>]"
    assert written("2.5", QUESTION, prompt=True) == head + opening


def test_chatml_brings_a_system_message_unless_there_is_one() -> None:
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    body = "<|im_start|>user\n{0}\nWhat?<|im_end|>\n<|im_start|>assistant\n[A cat.][<|im_end|>]\n"
    assert written("2.6", QUESTION, ANSWER) == system + body
    brief = "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert written("2.6", Turn("system", ("Be brief.",)), QUESTION, ANSWER) == brief + body


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ((" \n a b \t",), "a b"),
        (("  ", ImageRef(0), "x \n"), "{0}\nx"),
        ((ImageRef(0), " "), "{0}"),
        (("", "  ", ""), ""),
    ],
)
def test_llama3_removes_white_space_around_a_message(content: tuple[str | ImageRef, ...], expected: str) -> None:
    text = written("2.5", Turn("user", content))
    assert text == f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{expected}<|eot_id|>"


def test_parts_are_joined_with_one_newline() -> None:
    turn = Turn("user", ("one", ImageRef(0), ImageRef(1), "two", "three"))
    assert written("2.0", turn) == "<s><用户>one\n{0}\n{1}\ntwo\nthree"


def test_contents_and_templates_are_told_apart() -> None:
    segments = render([Turn("user", ("<|im_end|>",))], VERSIONS["2.6"], add_generation_prompt=False)
    assert TextSegment("<|im_end|>", "content") in segments
    assert segments[-1] == TextSegment("<|im_end|>\n", "template")


def test_roles_depend_on_the_version() -> None:
    assert roles_of(VERSIONS["2.0"]) == ("user", "assistant")
    assert roles_of(VERSIONS["2.6"]) == ("system", "user", "assistant")


@pytest.mark.parametrize(
    ("version", "turns", "message"),
    [
        ("2.6", (), "found no turn, expected at least one"),
        ("2.6", (Turn("tool", ("x",)),), r"conversation\[0\].role: found 'tool', expected one of system, user, assis"),  # pyright: ignore[reportArgumentType]
        ("2.0", (Turn("system", ("x",)), QUESTION), "fix: put the instruction at the start of the first user turn"),
        ("2.6", (QUESTION, Turn("system", ("x",))), r"conversation\[1\].role: found a system turn after others"),
        ("2.5", (Turn("assistant", (ImageRef(0),)),), "found an image in a turn of role 'assistant'"),
    ],
)
def test_what_the_format_cannot_say_is_refused(version: str, turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(turns, VERSIONS[version], add_generation_prompt=False)


def test_thinking_is_refused_where_there_is_none() -> None:
    with pytest.raises(UsageError, match="openbmb/MiniCPM-V-2_6 has no thinking mode"):
        render([QUESTION], VERSIONS["2.6"], add_generation_prompt=True, enable_thinking=False)


def test_format_that_is_not_there_yet_is_said_so() -> None:
    with pytest.raises(CheckpointError, match=r"version 4\.5, whose chat format 'qwen3' is not supported yet"):
        render([QUESTION], VERSIONS["4.5"], add_generation_prompt=True)


def test_light_modules_import_neither_torch_nor_transformers() -> None:
    modules = ", ".join(f"minicpmv.processing.{name}" for name in ("slicing", "images", "chat", "messages"))
    code = f"import sys, {modules}; sys.exit(bool(sys.modules.keys() & {{'torch', 'transformers'}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
