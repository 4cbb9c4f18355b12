"""Who is answered with whom, who is sent away, and what happens when an answer fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from minicpmv.serving.answers.batch import Event, Finished, Question
from minicpmv.serving.answers.dispatcher import Dispatcher
from minicpmv.serving.errors import RequestError
from minicpmv.serving.metrics import Metrics


class Answers:
    """Notes each batch, and lets every question know its end."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.error: Exception | None = None

    def __call__(self, questions: Sequence[Question]) -> None:
        self.batches.append(" ".join(question.model for question in questions))
        if self.error is not None:
            raise self.error
        for question in questions:
            question.deliver(Finished("stop", 1))


def with_dispatcher(act: Callable[[Dispatcher, Answers], Awaitable[None]], **options: Any) -> Answers:
    answers = Answers()

    async def run() -> None:
        settings: Any = {"max_batch_size": 3, "max_queue": 5, "batch_delay_seconds": 0.0} | options
        dispatcher = Dispatcher(answers, **settings, metrics=Metrics())
        running = asyncio.create_task(dispatcher.run())
        await act(dispatcher, answers)
        dispatcher.close()
        await asyncio.wait_for(running, 5)

    asyncio.run(run())
    return answers


def ask(dispatcher: Dispatcher, model: str) -> tuple[Question, asyncio.Queue[Event]]:
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def deliver(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    question = Question(model=model, prompt=cast("Any", None), deliver=deliver)
    dispatcher.submit(question, dispatcher.reserve())
    return question, events


async def told(events: asyncio.Queue[Event]) -> Event:
    return await asyncio.wait_for(events.get(), 5)


def test_those_who_wait_for_one_model_are_answered_together_in_their_order() -> None:
    async def act(dispatcher: Dispatcher, answers: Answers) -> None:
        asked = [ask(dispatcher, model)[1] for model in "abaab"]
        assert [await told(events) for events in asked] == [Finished("stop", 1)] * 5

    assert with_dispatcher(act).batches == ["a a a", "b b"]


def test_no_batch_is_larger_than_allowed() -> None:
    async def act(dispatcher: Dispatcher, answers: Answers) -> None:
        for events in [ask(dispatcher, "a")[1] for _ in range(5)]:
            await told(events)

    assert with_dispatcher(act).batches == ["a a a", "a a"]


def test_an_idle_model_waits_a_moment_for_others() -> None:
    async def act(dispatcher: Dispatcher, answers: Answers) -> None:
        first = ask(dispatcher, "a")[1]
        await asyncio.sleep(0.02)
        second = ask(dispatcher, "a")[1]
        await told(first)
        await told(second)

    assert with_dispatcher(act, batch_delay_seconds=0.3).batches == ["a a"]


def test_a_full_queue_says_when_to_come_again_and_has_room_when_somebody_is_gone() -> None:
    async def act(dispatcher: Dispatcher, answers: Answers) -> None:
        places = [dispatcher.reserve() for _ in range(5)]
        with pytest.raises(RequestError) as caught:
            dispatcher.reserve()
        assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "1"})
        places[0].leave()
        places[0].leave()
        dispatcher.reserve()
        with pytest.raises(RequestError):
            dispatcher.reserve()

    with_dispatcher(act)


def test_who_has_left_is_not_answered_and_keeps_no_place() -> None:
    async def act(dispatcher: Dispatcher, answers: Answers) -> None:
        asked = [ask(dispatcher, "a") for _ in range(5)]
        for question, _ in asked[:4]:
            question.is_abandoned = True
        await told(asked[4][1])
        for _ in range(5):
            dispatcher.reserve()

    assert with_dispatcher(act).batches == ["a"]


@pytest.mark.parametrize(
    ("error", "said", "logged"),
    [
        (RuntimeError("CUBLAS failed"), "an error while answering (RuntimeError)", "Traceback"),
        (
            RuntimeError("CUDA out of memory. Tried"),
            "too little memory on the server for 2 requests",
            "lower --max-b",
        ),
    ],
)
def test_a_batch_that_fails_is_told_so_and_the_next_is_answered(
    error: Exception, said: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(dispatcher: Dispatcher, answers: Answers) -> None:
        answers.error = error
        failed = [await told(events) for events in [ask(dispatcher, "a")[1] for _ in range(2)]]
        assert [event.status for event in failed if isinstance(event, RequestError)] == [500, 500]
        assert said in str(failed[0])
        assert "CU" not in str(failed[0]), "what happened is the log's, not the client's"
        answers.error = None
        assert await told(ask(dispatcher, "a")[1]) == Finished("stop", 1)

    with_dispatcher(act)
    assert str(error) in caplog.text
    assert logged in caplog.text
    assert ("Traceback" in caplog.text) == (logged == "Traceback")


def test_an_end_sends_away_who_waits_and_whoever_comes() -> None:
    async def act(dispatcher: Dispatcher, answers: Answers) -> None:
        _, events = ask(dispatcher, "a")
        dispatcher.close()
        event = await told(events)
        assert isinstance(event, RequestError)
        assert event.status == 503
        with pytest.raises(RequestError, match="shutting down"):
            dispatcher.reserve()

    assert with_dispatcher(act).batches == []
