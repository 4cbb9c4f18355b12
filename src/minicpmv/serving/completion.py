"""Handles POST /v1/chat/completions, from the end of a request's headers to its answer's last byte.

In every case, its place in the queue is released and its answer is not generated any further.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from minicpmv.processing.text.tool_calls import ToolCall
from minicpmv.serving.answers.batch import Event, Finished, Question
from minicpmv.serving.answers.dispatcher import Dispatcher, Place
from minicpmv.serving.answers.responses import AnswerWriter, error_response, json_response, server_sent
from minicpmv.serving.answers.sampling import Drawing
from minicpmv.serving.answers.served_models import ServedModels
from minicpmv.serving.errors import RequestError, unknown_model
from minicpmv.serving.http.access import Access
from minicpmv.serving.http.bodies import Bodies
from minicpmv.serving.metrics import Metrics
from minicpmv.serving.requests.chat_request import ChatRequest, read_request
from minicpmv.serving.requests.prompt import Prompt, prepare
from minicpmv.serving.settings import ServerSettings

__all__ = ["ChatCompletions"]

_log = logging.getLogger("uvicorn.error")

_CLIENT_LEFT = 499
_STRANGER = (401, 403)
_LINES_WITHOUT_KEY = 60
"""Log lines in a minute; further ones are thinned out by ``log_limits``."""
_Value = TypeVar("_Value")


class ChatCompletions:
    """Handles the endpoint.

    Args:
        served: The models.
        dispatcher: Queue of the requests.
        access: Check of the key.
        bodies: Requests that are being read.
        settings: Limits.
        metrics: Counters to update.
        readers: Threads in which requests are read and images fetched.
    """

    def __init__(
        self,
        served: ServedModels,
        dispatcher: Dispatcher,
        *,
        access: Access,
        bodies: Bodies,
        settings: ServerSettings,
        metrics: Metrics,
        readers: Executor,
    ) -> None:
        self._served, self._dispatcher, self._access, self._bodies = served, dispatcher, access, bodies
        self._settings, self._metrics, self._readers = settings, metrics, readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.monotonic()
        status = _CLIENT_LEFT

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        exchange = _Exchange(self._settings.request_timeout_seconds)
        try:
            try:
                response = await self._respond(Request(scope, receive), exchange)
            except RequestError as error:
                _forget_frames(error)
                response = error_response(error)
            await response(scope, receive, send_counted)
        except ClientDisconnect as error:
            _forget_frames(error)
        finally:
            exchange.close()
            self._metrics.requests.labels(status).inc()
            self._metrics.seconds.observe(time.monotonic() - start)
            self._note(scope, status, time.monotonic() - start)

    async def _respond(self, request: Request, exchange: _Exchange) -> Response:
        self._access.check(request)
        self._dispatcher.check_room()
        chat, prompt = await self._receive(request, exchange)
        loop = asyncio.get_running_loop()
        question = Question(
            model=chat.model,
            prompt=prompt,
            drawing=Drawing(temperature=chat.temperature, top_p=chat.top_p, seed=chat.seed),
            stops=chat.stop,
            deliver=partial(_deliver, loop, exchange.events),
        )
        exchange.question, exchange.place = question, self._dispatcher.reserve()
        self._dispatcher.submit(question, exchange.place)
        writer = AnswerWriter(chat.model, prompt.num_tokens, include_usage=chat.include_usage)
        headers = {"x-request-id": writer.id}
        # A stream begins with its first event: an earlier failure gets its own status.
        first = await exchange.before_deadline(_unless_gone(request, exchange.next_event()))
        self._metrics.first_piece_seconds.observe(exchange.seconds())
        if chat.stream:
            chunks = self._stream(first, exchange, writer, prompt)
            return StreamingResponse(
                chunks, headers=headers | {"cache-control": "no-cache"}, media_type="text/event-stream"
            )
        pieces, end = await exchange.before_deadline(_unless_gone(request, _collect(first, exchange)))
        self._count(prompt, end)
        return json_response(writer.whole(pieces, end), headers=headers)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """Log a request: each one with the key, only a few if there is no key."""
        client = (scope.get("client") or ("",))[0]
        if status in _STRANGER:
            _log.warning("%s: refused with %d", client, status)
            return
        extra = {"max_lines": None if self._settings.api_key is not None else _LINES_WITHOUT_KEY}
        _log.info("%s: answered with %d after %.2f s", client, status, seconds, extra=extra)

    async def _receive(self, request: Request, exchange: _Exchange) -> tuple[ChatRequest, Prompt]:
        body = self._bodies.begin()
        try:
            content = await exchange.before_deadline(body.read(request))
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self._read, content)
            return await exchange.before_deadline(_unless_gone(request, reading))
        finally:
            body.release()

    def _read(self, body: bytes) -> tuple[ChatRequest, Prompt]:
        chat = read_request(body)
        if chat.model not in self._served.adapters:
            raise unknown_model(chat.model, self._served.adapters)
        return chat, prepare(chat, self._served.loaded, self._settings)

    async def _stream(
        self, event: str | ToolCall | Finished, exchange: _Exchange, writer: AnswerWriter, prompt: Prompt
    ) -> AsyncIterator[str]:
        yield writer.opening()
        try:
            while not isinstance(event, Finished):
                yield writer.piece(event)
                event = await exchange.before_deadline(exchange.next_event())
        except RequestError as error:  # too late for a status; clients raise an error event
            yield server_sent(error.body())
            return
        self._count(prompt, event)
        for chunk in writer.ending(event):
            yield chunk

    def _count(self, prompt: Prompt, end: Finished) -> None:
        self._metrics.prompt_tokens.inc(prompt.num_tokens)
        self._metrics.completion_tokens.inc(end.num_tokens)


class _Exchange:
    """Holds one request and the resources to release at its end."""

    def __init__(self, timeout_seconds: float) -> None:
        self._start, self._timeout_seconds = time.monotonic(), timeout_seconds
        self.place = Place(lambda: None)
        self.question: Question | None = None
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    def seconds(self) -> float:
        """Return the age of the request."""
        return time.monotonic() - self._start

    async def before_deadline(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """Wait for something, but no longer than a request may take."""
        try:
            return await asyncio.wait_for(work, max(0.0, self._timeout_seconds - self.seconds()))
        except (TimeoutError, asyncio.TimeoutError) as error:  # the same class from Python 3.11 on
            raise RequestError(
                504,
                f"found no complete answer after {self._timeout_seconds:g} s, expected one by then\n"
                "  fix: try again later, or ask for a shorter answer",
                code="timeout",
            ) from error

    async def next_event(self) -> str | ToolCall | Finished:
        """Return a piece of the answer, a call, or its end."""
        event = await self.events.get()
        if isinstance(event, RequestError):
            raise event
        return event

    def close(self) -> None:
        """Release all resources."""
        self.place.leave()
        if self.question is not None:
            self.question.is_abandoned = True


def _forget_frames(error: BaseException) -> None:
    """Clear the frames of an error, which hold a body and futures that in turn hold the error.

    Such cycles stay until the next full garbage collection: 64 clients that sent too much made the
    server hold 4 GB.
    """
    traceback.clear_frames(error.__traceback__)
    for cause in (error.__cause__, error.__context__):
        if cause is not None:
            traceback.clear_frames(cause.__traceback__)


def _deliver(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    loop.call_soon_threadsafe(events.put_nowait, event)


async def _collect(event: str | ToolCall | Finished, exchange: _Exchange) -> tuple[list[str | ToolCall], Finished]:
    pieces: list[str | ToolCall] = []
    while not isinstance(event, Finished):
        pieces.append(event)
        event = await exchange.next_event()
    return pieces, event


async def _unless_gone(request: Request, work: Any) -> Any:
    """Wait for something as long as the client is connected.

    Raises:
        ClientDisconnect: The client has left.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
