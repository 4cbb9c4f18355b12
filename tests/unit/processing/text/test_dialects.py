"""The dialect of 4.6 and 4.7; those before it are in ``test_chat``, and the stored prompts in ``tests/parity``."""

from __future__ import annotations

from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.processing.text.chat import left_out, render
from minicpmv.processing.text.tool_calls import ToolCall
from minicpmv.processing.text.turns import ImageRef, ImageSegment, Turn
from minicpmv.releases.table import VERSIONS

MARKS = {
    "template": "{}",
    "content": "{}",
    "answer": "[{}]",
    "answer_format": "<<{}>>",
    "end": "[{}]",
    "unwritten_end": "^",
}
QUESTION = Turn("user", ("What?",))
ASKED = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
THOUGHT = "<think>\nA tail.\n</think>\n\nA cat."


def written(*turns: Turn, prompt: bool = False, version: str = "4.6", **options: Any) -> str:
    """Spell segments out: answers in square brackets, words of the format within them in << >>, images as {index}."""
    segments = render(turns, VERSIONS[version], add_generation_prompt=prompt, **options)
    return "".join(
        f"{{{segment.index}}}" if isinstance(segment, ImageSegment) else MARKS[segment.kind].format(segment.text)
        for segment in segments
    )


def say(text: str) -> Turn:
    return Turn("assistant", (text,))


def test_every_answer_after_the_last_question_has_a_think_block_whose_head_is_not_trained() -> None:
    thought = "<think>\n[A tail.]<<\n</think>\n\n>>[A cat.][<|im_end|>]\n"
    empty = "<|im_start|>assistant\n<think>\n\n</think>\n\n[Yes.][<|im_end|>]\n"
    assert written(QUESTION, say(THOUGHT), say("Yes.")) == ASKED + thought + empty


def test_earlier_answers_have_no_block_and_a_lost_thought_is_named() -> None:
    turns = (QUESTION, say(THOUGHT), QUESTION, say("Yes."))
    empty = "<think>\n\n</think>\n\n"
    assert written(*turns) == f"{ASKED}[A cat.][<|im_end|>]\n{ASKED}{empty}[Yes.][<|im_end|>]\n"
    assert [left.turn for left in left_out(turns, VERSIONS["4.6"])] == [1]
    assert [left.turn for left in left_out((turns[0], say("Well. " + THOUGHT)), VERSIONS["4.6"])] == [1]


def test_white_space_around_every_message_goes_and_a_picture_counts_as_text() -> None:
    asked = Turn("user", ("\u3000", ImageRef(0), " \n"))
    text = written(Turn("system", (" Be brief.\n",)), asked, say("\n Yes. "))
    head = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{0}<|im_end|>\n<|im_start|>assistant\n"
    assert text == head + "<think>\n\n</think>\n\n[Yes.][<|im_end|>]\n"


def test_no_instruction_is_added_and_a_question_is_needed() -> None:
    assert written(QUESTION, prompt=True, enable_thinking=True) == ASKED + "<think>\n"
    with pytest.raises(UsageError, match=r"found no user turn, expected one: the format of openbmb/MiniCPM-V-4\.6"):
        written(say("Yes."))


def test_frames_of_one_film_touch_and_nothing_else_does() -> None:
    frames = (ImageRef(0, 0), ImageRef(1, 0), ImageRef(2, 1), ImageRef(3), ImageRef(4), "What?")
    text = written(Turn("user", frames))
    assert text == "<|im_start|>user\n{0}{1}\n{2}\n{3}\n{4}\nWhat?<|im_end|>\n"


def test_releases_without_a_token_for_frames_write_them_as_pictures() -> None:
    text = written(Turn("user", (ImageRef(0, 0), ImageRef(1, 0), "What?")), version="4.5")
    assert text == "<|im_start|>user\n{0}\n{1}\nWhat?<|im_end|>\n"


def test_releases_without_films_say_so() -> None:
    with pytest.raises(UsageError, match=r"content: found a film, expected none: openbmb/MiniCPM-V-2 takes none"):
        written(Turn("user", (ImageRef(0, 0), "What?")), version="2.0")


CALL = ToolCall("find", (("what", '"a cat"'),))
CALLED = (
    "<<<tool_call>\n<function=>>[find]<<>\n>><<<parameter=>>[what]<<>\n>>[a cat]<<\n</parameter>\n>>"
    "<<</function>\n</tool_call>>>"
)


def test_a_call_is_trained_and_its_results_are_one_turn_of_the_user() -> None:
    """Every answer since the question has its think block: results are no questions."""
    results = (Turn("tool", (" Here.\n",)), Turn("tool", ("<tool_call>",)))
    text = written(QUESTION, Turn("assistant", (THOUGHT,), calls=(CALL,)), *results, say("Found."))
    thought = "<think>\n[A tail.]<<\n</think>\n\n>>[A cat.]" + CALLED.replace("<<<tool_call>", "<<\n\n<tool_call>", 1)
    both = "\n<tool_response>\nHere.\n</tool_response>\n<tool_response>\n<tool_call>\n</tool_response><|im_end|>\n"
    answer = "<|im_start|>assistant\n<think>\n\n</think>\n\n[Found.][<|im_end|>]\n"
    assert text == f"{ASKED}{thought}[<|im_end|>]\n<|im_start|>user{both}{answer}"


def test_a_call_may_be_all_that_is_answered_and_a_result_the_last_turn() -> None:
    turns = (QUESTION, Turn("assistant", ("",), calls=(CALL, CALL)), Turn("tool", ("",)))
    second = CALLED.replace("<<<tool_call>", "<<\n<tool_call>", 1)
    result = "<|im_start|>user\n<tool_response>\n\n</tool_response><|im_end|>\n"
    head = f"{ASKED}<think>\n\n</think>\n\n[]{CALLED}{second}[<|im_end|>]\n{result}"
    assert written(*turns) == head
    opened = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert written(*turns, prompt=True, enable_thinking=False) == head + opened


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ((QUESTION, Turn("tool", ("Here.",))), r"\[1\]\.role: found a result without a call before it"),
        ((Turn("user", ("What?",), calls=(CALL,)),), r"\[0\]: found calls of tools in a turn of role 'user'"),
        ((Turn("user", ("What?",), tools=("{}",)),), r"\[0\]: found tools in a turn of role 'user'"),
        ((Turn("system", (), tools=("{}",)), QUESTION), "tools: found tools, and a chat template that does not write"),
    ],
)
def test_tools_in_a_wrong_place_are_refused(turns: tuple[Turn, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        written(*turns)
