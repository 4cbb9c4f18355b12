"""Reads the body of a chat completion request, and refuses parameters that would have no effect.

A parameter that should change the answer and is not supported is an error. Those that only describe the request to
OpenAI's own service are ignored. Images and films stay addresses here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minicpmv.processing.films.request import REQUEST_KEYS, FilmRequest, find_request_fault
from minicpmv.processing.text.turns import FilmRef, ImageRef, Part, Role, Turn
from minicpmv.serving.errors import RequestError, refused
from minicpmv.serving.requests.request_films import AskedFilm
from minicpmv.serving.requests.tool_use import (
    ReadMessage,
    check_encodable,
    order_results,
    read_announced,
    read_called,
)
from minicpmv.wording import name_type

__all__ = ["ChatRequest", "read_request"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_MORE_KEYS = {"assistant": "tool_calls", "tool": "tool_call_id"}
_MAX_STOPS = 4

# None of them changes an answer.
_DESCRIPTIVE = {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user"}
# Supported by OpenAI or other servers. With these values, which some clients always send, they ask for nothing.
_INACTIVE: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
}
_ACTIVE = ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
           "top_p", "stop", "seed", "chat_template_kwargs", "tools", "parallel_tool_calls")  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """Holds one client's request."""

    model: str
    turns: list[Turn]
    addresses: list[str]
    """Addresses of the images, by the index of ``ImageRef``: ``data:``, ``file:`` or web addresses, or paths."""
    films: list[AskedFilm]
    """Films, by the index of ``FilmRef``."""
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with its token counts."""
    max_tokens: int | None = None
    """Longest answer, thoughts included."""
    temperature: float = 0.0
    """Temperature; 0 always takes the likeliest token."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    seed: int | None = None
    enable_thinking: bool | None = None
    """Whether the model thinks; None for the server's default."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call, as ``read_tools`` returns them."""


def read_request(body: bytes) -> ChatRequest:
    """Read a body.

    Raises:
        RequestError: The body is not JSON, or something in it is not supported.
    """
    fields = _read_json(body)
    _refuse_inactive(fields)
    model = _take(fields, "model", str, "the name of a model")
    if model is None:
        raise refused("model", "none", "the name of a model", "write one that GET /v1/models lists")
    turns, addresses, films = _read_messages(fields.get("messages"))
    stream = bool(_take(fields, "stream", bool, "true or false"))
    options = _take(fields, "stream_options", dict, "an object") or {}
    if options and not stream:
        raise refused("stream_options", "it without a stream", "it together with stream=true", "leave it out")
    _refuse_unknown(options, {"include_usage", "include_obfuscation"}, "stream_options")
    if options.get("include_obfuscation"):
        raise refused("stream_options.include_obfuscation", "true", "false: chunks are not padded", "leave it out")
    _take(fields, "parallel_tool_calls", bool, "true or false")
    template = _take(fields, "chat_template_kwargs", dict, "an object") or {}
    _refuse_unknown(template, {"enable_thinking"}, "chat_template_kwargs")
    temperature = _read_number(fields, "temperature", 0, 2)
    top_p = _read_number(fields, "top_p", 0, 1)
    if top_p == 0:
        raise refused("top_p", "0", "a number above 0, at most 1", "use temperature 0 for the likeliest tokens")
    if temperature is None and top_p not in (None, 1):
        raise refused(
            "top_p", f"{top_p} without a temperature", "both", "add temperature; without it nothing is sampled"
        )
    return ChatRequest(
        model=model,
        turns=turns,
        addresses=addresses,
        films=films,
        stream=stream,
        include_usage=bool(_take(options, "include_usage", bool, "true or false", where="stream_options.")),
        max_tokens=_read_length(fields),
        temperature=temperature or 0.0,
        top_p=1.0 if top_p is None else top_p,
        stop=_read_stops(fields.get("stop")),
        seed=_read_seed(fields),
        enable_thinking=_take(template, "enable_thinking", bool, "true or false", where="chat_template_kwargs."),
        tools=read_announced(fields),
    )


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError includes text that is not UTF-8
        raise RequestError(
            400, f"body: found {len(body)} bytes that are not JSON ({error}), expected a JSON object\n  fix: send JSON"
        ) from error
    if not isinstance(fields, dict):
        raise RequestError(400, f"body: found {_kind(fields)}, expected a JSON object\n  fix: send an object")
    return fields


def _refuse_inactive(fields: Mapping[str, Any]) -> None:
    """Refuse parameters that would have no effect, and unknown ones."""
    for name, value in fields.items():
        if value is None or name in _DESCRIPTIVE or name in _ACTIVE:
            continue
        if name not in _INACTIVE:
            raise refused(f"{name!a}"[1:-1], "an unknown parameter", f"one of {', '.join(_ACTIVE)}", "leave it out")
        # JSON's true is Python's 1; as a value of n it is a mistake.
        if not any(value == harmless and type(value) is not bool for harmless in _INACTIVE[name]) and not any(
            value is harmless for harmless in _INACTIVE[name]
        ):
            allowed = " or ".join(json.dumps(harmless) for harmless in _INACTIVE[name])
            raise refused(name, f"{value!r:.60}", f"{allowed}: this server supports nothing else", "leave it out")


def _refuse_unknown(fields: Mapping[str, Any], known: set[str], where: str) -> None:
    for name, value in fields.items():
        if name not in known and value is not None:
            raise refused(where, f"{name!a:.60}", f"{' and '.join(sorted(known))} at most", "leave it out")


def _take(fields: Mapping[str, Any], name: str, kind: type, expected: str, *, where: str = "") -> Any:
    """Return a field of one type, or None."""
    value = fields.get(name)
    if value is not None and type(value) is not kind:
        raise refused(f"{where}{name}", f"{value!r:.60}", expected, f"send {expected}, or leave it out")
    return value


def _read_number(fields: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not least <= value <= most:  # the comparison refuses NaN
        raise refused(name, f"{value!r:.60}", f"a number from {least} to {most}", f"send one, such as {most / 2:g}")
    return float(value)


def _read_length(fields: Mapping[str, Any]) -> int | None:
    given = {name: value for name in ("max_tokens", "max_completion_tokens") if (value := fields.get(name)) is not None}
    for name, value in given.items():
        if type(value) is not int or value < 1:
            raise refused(
                name, f"{value!r:.60}", "a whole number of at least 1", "send one, such as 256, or leave it out"
            )
    if len(set(given.values())) > 1:
        found = " and ".join(str(value) for value in given.values())
        raise refused("max_tokens", f"{found} as max_completion_tokens", "one length", "send one of the two")
    return next(iter(given.values()), None)


def _read_seed(fields: Mapping[str, Any]) -> int | None:
    seed = _take(fields, "seed", int, "a whole number")
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise refused("seed", "a number of more than 64 bits", "a whole number of 64 bits", "use a smaller one")
    return seed


def _read_stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise refused(
            "stop", f"{value!r:.60}", f"a string, or a list of at most {_MAX_STOPS}", 'send text, such as ["END"]'
        )
    if "" in stops:
        raise refused("stop", "an empty string", "text that ends the answer", "leave it out")
    return tuple(_checked(stop, "stop") for stop in stops)


def _read_messages(value: Any) -> tuple[list[Turn], list[str], list[AskedFilm]]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _kind(value)
        raise refused("messages", found, "a list of messages", "write [{'role': 'user', 'content': ...}]")
    read: list[ReadMessage] = []
    addresses: list[str] = []
    films: list[AskedFilm] = []
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise refused(where, _kind(message), "a message", "write {'role': 'user', 'content': ...}")
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise refused(f"{where}.role", f"{role!r:.60}", f"one of {', '.join(_ROLES)}", "use one of those roles")
        more = {_MORE_KEYS[role]} if role in _MORE_KEYS else set[str]()
        _refuse_unknown(message, {"role", "content"} | more, where)  # names are not shown to the model
        calls, call_ids = (), ()
        if role == "assistant" and message.get("tool_calls") is not None:
            calls, call_ids = read_called(message["tool_calls"], f"{where}.tool_calls")
        content = message.get("content")
        said = ("",) if calls and content is None else _read_content(content, f"{where}.content", addresses, films)
        result_of = _take(message, "tool_call_id", str, "the id of a call", where=f"{where}.")
        turn = Turn(_ROLES[role], said, calls=calls)
        read.append(ReadMessage(turn=turn, where=where, call_ids=call_ids, result_of=result_of))
    return order_results(read), addresses, films


def _read_content(content: Any, where: str, addresses: list[str], films: list[AskedFilm]) -> tuple[Part, ...]:
    """Read one message's parts; addresses of images are added to ``addresses``, films to ``films``."""
    if isinstance(content, str):
        return (_checked(content, where),)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else _kind(content)
        raise refused(where, found, "a text, or a list of parts", "write [{'type': 'text', 'text': ...}]")
    parts: list[Part] = []
    for position, part in enumerate(content):
        place = f"{where}[{position}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            _refuse_unknown(part, {"type", "text"}, place)
            parts.append(_checked(part.get("text"), f"{place}.text"))
        elif kind == "image_url":
            _refuse_unknown(part, {"type", "image_url"}, place)
            parts.append(ImageRef(len(addresses)))
            addresses.append(_read_address(part.get("image_url"), f"{place}.image_url"))
        elif kind == "video_url":
            _refuse_unknown(part, {"type", "video_url", *REQUEST_KEYS}, place)
            parts.append(FilmRef(len(films)))
            films.append(_read_film(part, place))
        else:
            found = f"the type {kind!r:.60}" if isinstance(part, dict) else _kind(part)
            raise refused(place, found, "a part of type 'text', 'image_url' or 'video_url'", "use one of those types")
    return tuple(parts)


def _read_address(value: Any, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("url"), str):
        raise refused(where, _kind(value), "an object with 'url'", "write {'url': 'data:image/png;base64,...'}")
    _refuse_unknown(value, {"url", "detail"}, where)
    if value.get("detail") not in (None, "auto", "high"):  # both are all slices that the model was made for
        expected = "'auto' or 'high': as many slices as the model was made for"
        raise refused(f"{where}.detail", f"{value['detail']!r:.60}", expected, "leave it out")
    return _checked(value["url"], f"{where}.url")


def _read_film(part: Mapping[str, Any], where: str) -> AskedFilm:
    """Read the part of a film, which may say what is asked of its frames."""
    value = part.get("video_url")
    if not isinstance(value, dict) or not isinstance(value.get("url"), str):
        raise refused(
            f"{where}.video_url", _kind(value), "an object with 'url'", "write {'url': 'data:video/mp4;base64,...'}"
        )
    _refuse_unknown(value, {"url"}, f"{where}.video_url")
    request = FilmRequest.of_fields(part)
    if fault := find_request_fault(request):
        raise refused(f"{where}.{fault.field}", fault.found, fault.expected, fault.fix)
    return AskedFilm(_checked(value["url"], f"{where}.video_url.url"), request)


def _checked(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise refused(where, _kind(value), "a string", "write a string")
    return check_encodable(value, where)


def _kind(value: Any) -> str:
    return "nothing" if value is None else name_type(value)
