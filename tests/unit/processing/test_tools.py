"""Conversations with tools in tokens: what is trained, what is context, and that typed words stay text."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.template_rendering import render_cases
from minicpmv.processing.text.tool_calls import make_call, read_calls, read_tools, to_json
from minicpmv.processing.text.turns import Turn, announce_tools
from tests.parity.cases import FIXTURES
from tests.tool_templates import with_tools

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
CALLS = [{"type": "function", "function": {"name": "find", "arguments": {"what": "<tool_call> é", "all": True}}}]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
    {"role": "tool", "content": "Here."},
    {"role": "tool", "content": "There."},
    {"role": "assistant", "content": "Found twice."},
]


@pytest.fixture(scope="module", params=["v4_6", "v4_7"])
def processor(request: pytest.FixtureRequest) -> MiniCPMVProcessor:
    made = MiniCPMVProcessor.from_pretrained(FIXTURES / request.param, downsample_mode="16x")
    made.tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"])
    made.tokenizer.chat_template = made.chat_template = with_tools()
    return made


def turns_of(messages: list[dict[str, Any]]) -> list[Turn]:
    turns = [
        Turn(
            message["role"],
            (message["content"],),
            calls=tuple(make_call(call) for call in read_calls(message.get("tool_calls", []))),
        )
        for message in messages
    ]
    return announce_tools(tuple(to_json(tool) for tool in read_tools(TOOLS)), turns)


@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:], MESSAGES[1:3]], ids=["all", "no instruction", "a call"])
def test_the_text_is_the_template_s_own(processor: MiniCPMVProcessor, messages: list[dict[str, Any]]) -> None:
    (rendered,) = render_cases(str(processor.chat_template), [(messages, {"tools": TOOLS})], {})
    ours = processor.apply_chat_template(messages, tools=TOOLS, tokenize=False, add_generation_prompt=False)
    assert ours == rendered["text"]


def test_calls_are_trained_as_answers_and_results_are_context(processor: MiniCPMVProcessor) -> None:
    sample = processor.encode_conversation(turns_of(MESSAGES))
    trained = [index for index, label in zip(sample.input_ids, sample.labels, strict=True) if label != IGNORED]
    call = "<tool_call>\n<function=find>\n<parameter=what>\n<tool_call> é\n</parameter>\n"
    call += "<parameter=all>\ntrue\n</parameter>"
    expected = f"I look.\n\n{call}\n</function>\n</tool_call><|im_end|>Found twice.<|im_end|>"
    assert processor.tokenizer.decode(trained) == expected
    vocabulary = processor.vocabulary
    assert trained.count(vocabulary["<tool_call>"]) == 1, "the one that was typed stays text"
    assert sample.input_ids.count(vocabulary["<tool_response>"]) == 2
    assert sample.label_weights is None


def test_a_call_of_weight_0_is_context(processor: MiniCPMVProcessor) -> None:
    turns = turns_of(MESSAGES)
    turns[2] = Turn("assistant", turns[2].content, weight=0.0, calls=turns[2].calls)
    sample = processor.encode_conversation(turns)
    trained = [index for index, label in zip(sample.input_ids, sample.labels, strict=True) if label != IGNORED]
    assert processor.tokenizer.decode(trained) == "Found twice.<|im_end|>"


def test_the_prompt_of_each_answer_is_what_stands_before_it_in_training(processor: MiniCPMVProcessor) -> None:
    turns = turns_of(MESSAGES)
    whole = processor.encode_conversation(turns)
    for position in (2, 5):
        prompt = processor.encode_conversation(turns[:position], add_generation_prompt=True, enable_thinking=False)
        assert whole.input_ids[: len(prompt.input_ids)] == prompt.input_ids
        assert whole.labels[len(prompt.input_ids)] != IGNORED


def test_typed_words_of_the_format_stay_text_in_results_and_tools(processor: MiniCPMVProcessor) -> None:
    turns = turns_of([*MESSAGES[1:3], {"role": "tool", "content": "</tool_response><|im_end|>"}])
    plain = turns_of([*MESSAGES[1:3], {"role": "tool", "content": "x"}])
    tokens = ("</tool_response>", "<|im_end|>")
    counts = [
        [processor.encode_conversation(each).input_ids.count(processor.vocabulary[token]) for token in tokens]
        for each in (turns, plain)
    ]
    assert counts[0] == counts[1]


def test_a_copy_need_not_render_the_template_again(
    processor: MiniCPMVProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = processor.encode_text(turns_of(MESSAGES)).input_ids
    copy = pickle.loads(pickle.dumps(processor))  # noqa: S301  made here
    monkeypatch.setattr("minicpmv.processing.conversation_processor.read_tools_frame", None)
    assert copy.encode_text(turns_of(MESSAGES)).input_ids == ids


def test_tools_need_a_template_that_writes_them_and_calls_do_not() -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v4_6", downsample_mode="16x")
    with pytest.raises(UsageError, match="found tools, and a chat template that does not write them"):
        processor.encode_text(turns_of(MESSAGES))
    called = [Turn(turn.role, turn.content, calls=turn.calls) for turn in turns_of(MESSAGES)]
    assert processor.encode_text(called).input_ids
