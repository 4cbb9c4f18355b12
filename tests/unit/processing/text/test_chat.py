from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.processing.text.chat import left_out, render, roles_of
from minicpmv.processing.text.turns import ImageRef, ImageSegment, TextSegment, Turn
from minicpmv.releases.table import VERSIONS

QUESTION = Turn("user", (ImageRef(0), "What?"))
ANSWER = Turn("assistant", ("A cat.",))


def written(version: str, *turns: Turn, prompt: bool = False, **options: Any) -> str:
    """Spell segments out, answers in square brackets, images as {index}, ends that are not written as ^."""
    marks = {"answer": "[{}]", "end": "[{}]", "unwritten_end": "^", "template": "{}", "content": "{}"}
    segments = render(turns, VERSIONS[version], add_generation_prompt=prompt, **options)
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


@pytest.mark.parametrize("version", ["2.6", "4.0"])
def test_chatml_brings_a_system_message_unless_there_is_one(version: str) -> None:
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    body = "<|im_start|>user\n{0}\nWhat?<|im_end|>\n<|im_start|>assistant\n[A cat.][<|im_end|>]\n"
    assert written(version, QUESTION, ANSWER) == system + body
    brief = "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert written(version, Turn("system", ("Be brief.",)), QUESTION, ANSWER) == brief + body


ASKED = "<|im_start|>user\n{0}\nWhat?<|im_end|>\n<|im_start|>assistant\n"
NOTHING = "<think>\n\n</think>\n\n"


def say(text: str) -> Turn:
    return Turn("assistant", (text,))


def test_qwen3_puts_a_think_block_into_the_last_answer_only() -> None:
    """One that nobody filled is written and not trained: it is part of the prompt."""
    again = "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    assert written("4.5", QUESTION, ANSWER) == ASKED + NOTHING + "[A cat.][<|im_end|>]\n"
    text = written("4.5", QUESTION, ANSWER, Turn("user", ("Sure?",)), say("Yes."))
    assert text == ASKED + "[A cat.][<|im_end|>]\n" + again + NOTHING + "[Yes.][<|im_end|>]\n"


def test_qwen3_trains_the_thinking_that_a_record_wrote() -> None:
    """In two pieces, because a prompt with the thinking opened ends after the first."""
    text = written("4.5", QUESTION, say("<think>\nA tail.\n</think>\n\nA cat."))
    assert text == ASKED + "[<think>\n][A tail.\n</think>\n\nA cat.][<|im_end|>]\n"


def test_qwen3_leaves_earlier_thinking_out_of_a_prompt() -> None:
    text = written("4.5", QUESTION, say("<think>\nA tail.\n</think>\n\nA cat."), Turn("user", ("Sure?",)), prompt=True)
    assert text == (ASKED + "[A cat.][<|im_end|>]\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(("enable_thinking", "end"), [(False, NOTHING), (True, "<think>\n")])
def test_thinking_is_closed_or_opened_at_the_end_of_a_prompt(enable_thinking: bool, end: str) -> None:
    assert written("4.5", QUESTION, prompt=True) == ASKED
    assert written("4.5", QUESTION, prompt=True, enable_thinking=enable_thinking) == ASKED + end
    assert written("4.5", QUESTION, enable_thinking=enable_thinking) == ASKED.removesuffix("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("turns", "found"),
    [
        ((QUESTION, say("<think>\nA tail.\n</think>\n\nA cat.")), []),
        ((QUESTION, say("<think>\n\n</think>\n\nA cat."), QUESTION, say("Yes.")), []),
        (
            (QUESTION, say("<think>\nA tail.\n</think>\n\nA cat."), QUESTION, say("Yes.")),
            [(1, "thinking before the last question: 'A tail.'")],
        ),
        (
            (QUESTION, say("Well. <think>\nA tail.\n</think>\n\nA cat.")),
            [(1, "'Well.' outside of both thinking and answer")],
        ),
        (
            (QUESTION, say("<think>a</think> b </think>c")),
            [(1, "'b' outside of both thinking and answer")],
        ),
        ((say("<think>a</think>b"),), [(0, "thinking before the last question: 'a'")]),
    ],
)
def test_what_the_format_does_not_write_is_named(turns: tuple[Turn, ...], found: list[tuple[int, str]]) -> None:
    assert [(left.turn, left.found) for left in left_out(turns, VERSIONS["4.5"])] == found
    assert list(left_out(turns, VERSIONS["2.6"])) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_begun_answer_is_left_open(version: str) -> None:
    turns = (QUESTION, ANSWER, Turn("user", ("Sure?",)), say("Yes, "))
    whole = written(version, *turns)
    begun = written(version, *turns, continue_final_message=True)
    assert whole.startswith(begun)
    trims = version == "2.5" or version.startswith(("4.6", "4.7"))
    assert begun.endswith("[Yes,]" if trims else "[Yes, ]")
    empty = written(version, *turns[:3], say(""), continue_final_message=True)
    assert begun.startswith(empty.removesuffix("[]"))


def test_only_an_answer_can_be_continued() -> None:
    with pytest.raises(UsageError, match="found a last turn of role 'user', expected the assistant's"):
        written("2.6", QUESTION, continue_final_message=True)
    with pytest.raises(UsageError, match="found it beside add_generation_prompt"):
        written("2.6", QUESTION, ANSWER, prompt=True, continue_final_message=True)


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
        ("2.6", (Turn("tool", ("x",)),), r"conversation\[0\]: found the result of a tool, expected none"),
        ("2.0", (Turn("system", ("x",)), QUESTION), "fix: put the instruction at the start of the first user turn"),
        ("2.6", (QUESTION, Turn("system", ("x",))), r"conversation\[1\].role: found a system turn after others"),
        ("2.5", (Turn("assistant", (ImageRef(0),)),), "found an image in a turn of role 'assistant'"),
    ],
)
def test_what_the_format_cannot_say_is_refused(version: str, turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(turns, VERSIONS[version], add_generation_prompt=False)


@pytest.mark.parametrize("version", [name for name, version in VERSIONS.items() if not version.reading.thinking])
def test_thinking_is_refused_where_there_is_none(version: str) -> None:
    with pytest.raises(UsageError, match=f"{VERSIONS[version].model} has no thinking mode"):
        render([QUESTION], VERSIONS[version], add_generation_prompt=True, enable_thinking=False)


def test_light_modules_import_neither_torch_nor_transformers() -> None:
    modules = ", ".join(
        f"minicpmv.processing.{name}"
        for name in (
            "pictures",
            "pictures.slicing",
            "pictures.sent_images",
            "frames",
            "text.chat",
            "text.thinking",
            "text.messages",
        )
    )
    code = f"import sys, {modules}; sys.exit(bool(sys.modules.keys() & {{'torch', 'transformers'}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
