"""No request stays longer than it may, wherever it waits, and its place is free afterwards."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from minicpmv.inference.loading import LoadedModel, load_model
from minicpmv.serving.answers.batch import Question
from minicpmv.serving.answers.dispatcher import Dispatcher
from minicpmv.serving.answers.served_models import ServedModels
from minicpmv.serving.completion import ChatCompletions
from minicpmv.serving.http.access import Access
from minicpmv.serving.http.bodies import Bodies
from minicpmv.serving.metrics import Metrics
from minicpmv.serving.settings import ServerSettings
from tests.tiny import FIXTURES

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi!"}]}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(FIXTURES / "v2_6")


def post(
    loaded: LoadedModel, *contents: bytes | Callable[[], AsyncIterator[bytes]], at_once: bool = False
) -> list[tuple[int, str, list[Question]]]:
    """Send requests, one by one or at once, to a server with one place that says "a" to each and then falls silent."""
    asked: list[Question] = []

    def answer(questions: Sequence[Question]) -> None:
        asked.extend(questions)
        for question in questions:
            question.deliver("a")

    async def run() -> list[tuple[int, str, list[Question]]]:
        metrics = Metrics()
        dispatcher = Dispatcher(answer, max_batch_size=1, max_queue=1, batch_delay_seconds=0.0, metrics=metrics)
        running = asyncio.create_task(dispatcher.run())
        settings = ServerSettings(request_timeout_seconds=0.3)
        with ThreadPoolExecutor(1) as readers:
            endpoint = ChatCompletions(
                ServedModels(loaded, {"m": None}),
                dispatcher,
                access=Access(None),
                bodies=Bodies(max_bytes=settings.max_body_bytes, max_total_bytes=settings.max_body_bytes),
                settings=settings,
                metrics=metrics,
                readers=readers,
            )
            transport = httpx2.ASGITransport(endpoint)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

                async def send(content: bytes | Callable[[], AsyncIterator[bytes]]) -> tuple[int, str, list[Question]]:
                    reply = await client.post("/", content=content if isinstance(content, bytes) else content())
                    return reply.status_code, reply.text, list(asked)

                sending = [send(content) for content in contents]
                replies = await asyncio.gather(*sending) if at_once else [await one for one in sending]
        dispatcher.close()
        await asyncio.wait_for(running, 5)
        return replies

    return asyncio.run(run())


async def never_ending() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.sleep(60)


def test_an_answer_that_is_not_complete_in_time_is_given_up(loaded: LoadedModel) -> None:
    ((status, text, asked),) = post(loaded, json.dumps(ASKED).encode())
    assert (status, json.loads(text)["error"]["code"]) == (504, "timeout")
    assert [question.is_abandoned for question in asked] == [True]


def test_a_stream_that_is_not_complete_in_time_ends_with_an_error(loaded: LoadedModel) -> None:
    ((status, text, asked),) = post(loaded, json.dumps(ASKED | {"stream": True}).encode())
    assert status == 200
    *_, piece, error = text.removesuffix("\n\n").split("\n\n")
    assert '"content": "a"' in piece
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "timeout"
    assert [question.is_abandoned for question in asked] == [True]


def test_a_body_that_never_ends_keeps_no_place(loaded: LoadedModel) -> None:
    first, second = post(loaded, never_ending, b"[]")
    assert (first[0], first[2]) == (504, [])
    assert (second[0], "expected a JSON object" in second[1]) == (400, True)


def test_a_body_that_is_not_whole_takes_nobodys_place(loaded: LoadedModel) -> None:
    """The second request comes while the first has sent half of itself."""
    first, second = post(loaded, never_ending, b"[]", at_once=True)
    assert (first[0], second[0], "expected a JSON object" in second[1]) == (504, 400, True)


def test_bodies_that_are_refused_are_not_kept(loaded: LoadedModel) -> None:
    """Errors, futures and frames refer to each other, and the garbage collector seldom looks at them."""
    refused = [b"[" + b" " * 2_000_000, b" " * (ServerSettings().max_body_bytes + 1)] * 4
    post(loaded, b"[]")
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        statuses = [reply[0] for reply in post(loaded, *refused)]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert statuses == [400, 413] * 4
    assert kept < 2_000_000, kept
