"""Builds OpenAI's objects: models, whole answers and the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from minicpmv.processing.text.tool_calls import ToolCall, to_openai
from minicpmv.serving.answers.batch import Finished
from minicpmv.serving.errors import RequestError

__all__ = ["AnswerWriter", "error_response", "json_response", "model_object", "server_sent"]

END_OF_STREAM = "data: [DONE]\n\n"


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a response in ASCII, which can represent even half a surrogate pair."""
    return Response(json.dumps(content), status_code=status, headers=headers, media_type="application/json")


def error_response(error: RequestError) -> Response:
    """Make the response for an error."""
    return json_response(error.body(), status=error.status, headers=error.headers)


def server_sent(content: Any) -> str:
    """Write one server-sent event."""
    return f"data: {json.dumps(content)}\n\n"


def model_object(name: str, *, created: int) -> dict[str, Any]:
    """Describe one model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "minicpmv"}


class AnswerWriter:
    """Writes one answer in OpenAI's form.

    Args:
        model: The requested name.
        num_prompt_tokens: Tokens of the prompt, including image slots.
        include_usage: Whether a stream ends with its token counts.
    """

    def __init__(self, model: str, num_prompt_tokens: int, *, include_usage: bool) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._model, self._num_prompt_tokens, self._include_usage = model, num_prompt_tokens, include_usage
        self._created = int(time.time())
        self._num_calls = 0

    def whole(self, pieces: Sequence[str | ToolCall], end: Finished) -> dict[str, Any]:
        """Return the whole answer as one object."""
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = [_call_object(piece) for piece in pieces if isinstance(piece, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
        return self._object("chat.completion", [choice]) | {"usage": self._usage(end)}

    def opening(self) -> str:
        """Return the first chunk, which states the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: str | ToolCall) -> str:
        """Return a chunk of text, or of one whole call."""
        if isinstance(piece, str):
            return self._chunk({"content": piece})
        call = {"index": self._num_calls, **_call_object(piece)}
        self._num_calls += 1
        return self._chunk({"tool_calls": [call]})

    def ending(self, end: Finished) -> Iterable[str]:
        """Return the last chunks."""
        yield self._chunk({}, end.reason)
        if self._include_usage:
            yield server_sent(self._object("chat.completion.chunk", []) | {"usage": self._usage(end)})
        yield END_OF_STREAM

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return server_sent(self._object("chat.completion.chunk", [choice]) | usage)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def _usage(self, end: Finished) -> dict[str, int]:
        prompt, answer = self._num_prompt_tokens, end.num_tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _call_object(call: ToolCall) -> dict[str, Any]:
    return {"id": f"call_{uuid.uuid4().hex}", **to_openai(call)}
