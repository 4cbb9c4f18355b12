"""What a body may hold, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minicpmv.processing.text.turns import ImageRef, Turn
from minicpmv.serving.errors import RequestError
from minicpmv.serving.requests.chat_request import read_request

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi!"}]}

LOW_DETAIL = {"type": "image_url", "image_url": {"url": "a", "detail": "low"}}


def read(**fields: Any) -> Any:
    return read_request(json.dumps(ASKED | fields).encode())


def test_requests_of_benchmark_tools_are_read() -> None:
    """As VLMEvalKit's GPT4V with img_detail high, and lmms-eval's openai, write them (docs/benchmarks.md)."""
    image = {"url": "data:image/jpeg;base64,AAAA"}
    for part in (
        {"type": "image_url", "image_url": image | {"detail": "high"}},
        {"type": "image_url", "image_url": image},
    ):
        content = [{"type": "text", "text": "A or B?"}, part]
        read(messages=[{"role": "user", "content": content}], temperature=0, max_tokens=1024)


def test_everything_that_acts_is_read() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}},
        {"type": "text", "text": "What?"},
    ]
    chat = read(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": content},
            # As OpenAI's client gives an answer back: every other key is null.
            {"role": "assistant", "content": "A cat.", "refusal": None, "tool_calls": None, "audio": None},
            {"role": "user", "content": "Sure?"},
        ],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        stop="\n",
        seed=-3,
        chat_template_kwargs={"enable_thinking": True},
    )
    assert chat.turns == [
        Turn("system", ("Be brief.",)),
        Turn("user", (ImageRef(0), "What?")),
        Turn("assistant", ("A cat.",)),
        Turn("user", ("Sure?",)),
    ]
    assert chat.addresses == ["a.png"]
    assert (chat.stream, chat.include_usage, chat.max_tokens, chat.seed) == (True, True, 7, -3)
    assert (chat.temperature, chat.top_p, chat.stop, chat.enable_thinking) == (0.5, 0.9, ("\n",), True)


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert (read().temperature, read().top_p, read().max_tokens, read().enable_thinking) == (0.0, 1.0, None, None)


def test_what_changes_nothing_is_passed_over() -> None:
    inactive = {"n": 1, "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "logprobs": False}
    descriptive = {"user": "u", "metadata": {"a": "b"}, "service_tier": "auto"}
    assert read(**inactive, **descriptive, tools=None, unknown=None, response_format={"type": "text"}) == read()


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": None}, "model", "model: found none, expected the name of a model"),
        ({"model": 3}, "model", "model: found 3"),
        ({"messages": []}, "messages", "messages: found an empty list"),
        ({"messages": "Hi!"}, "messages", "messages: found a str"),
        ({"messages": [3]}, "messages", "messages[0]: found an int"),
        ({"messages": [{"role": "function", "content": "a"}]}, "messages", "messages[0].role: found 'function'"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages", "messages[0].role: found ['user']"),
        ({"messages": [{"role": "user"}]}, "messages", "messages[0].content: found nothing"),
        ({"messages": [{"role": "user", "content": "a", "name": "Eve"}]}, "messages", "messages[0]: found 'name'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]},
            "messages",
            "messages[0].content[0]: found the type 'image'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]}]},
            "messages",
            "messages[0].content[0].image_url: found a str",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detail": "low"}}]}
                ]
            },
            "messages",
            "messages[0].content[0].image_url.detail: found 'low'",
        ),
        ({"n": 2}, "n", "n: found 2, expected 1"),
        ({"n": True}, "n", "n: found True"),
        ({"logprobs": True}, "logprobs", "logprobs: found True, expected false"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty: found 0.5, expected 0"),
        ({"response_format": {"type": "json_object"}}, "response_format", 'expected {"type": "text"}'),
        ({"top_k": 5}, "top_k", "top_k: found an unknown parameter"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens: found 0, expected a whole number of at least 1"),
        ({"max_tokens": True}, "max_tokens", "max_tokens: found True"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "found 5 and 6 as max_completion_tokens"),
        ({"temperature": 2.1}, "temperature", "temperature: found 2.1, expected a number from 0 to 2"),
        ({"temperature": "1"}, "temperature", "temperature: found '1'"),
        ({"temperature": float("nan")}, "temperature", "temperature: found nan"),
        ({"top_p": 0, "temperature": 1}, "top_p", "top_p: found 0"),
        ({"top_p": 0.5}, "top_p", "top_p: found 0.5 without a temperature"),
        ({"stop": ["a", ""]}, "stop", "stop: found an empty string"),
        ({"stop": list("abcde")}, "stop", "a list of at most 4"),
        ({"seed": 2**70}, "seed", "seed: found a number of more than 64 bits"),
        ({"seed": 1.5}, "seed", "seed: found 1.5, expected a whole number"),
        ({"stream": "yes"}, "stream", "stream: found 'yes', expected true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "found it without a stream"),
        ({"chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs", "found 'tools'"),
        ({"stop": "\ud800"}, "stop", "stop: found half a character (\\ud800)"),
    ],
)
def test_what_could_not_act_is_named(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert message in str(caught.value)
    assert "fix:" in str(caught.value)
    assert (caught.value.status, caught.value.param) == (400, param)
