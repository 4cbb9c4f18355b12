"""Queues requests, and decides which are answered next.

Requests for the same model are answered together, including the one that has waited longest. Everything
here runs in the event loop, except the answering itself, which has its own thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from minicpmv.machine.shortage import find_shortage
from minicpmv.serving.answers.batch import Event, Question
from minicpmv.serving.errors import RequestError
from minicpmv.serving.metrics import Metrics
from minicpmv.wording import counted

__all__ = ["Dispatcher", "Place"]

_log = logging.getLogger("uvicorn.error")
_LONGEST_RETRY_SECONDS = 60
_SMALLER = "lower --max-batch-size, --max-length or --max-slice-nums"


class Place:
    """Holds a complete request's place in the queue, until its batch begins or its client leaves."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Release the place; calling it again is a no-op."""
        if self._leave is not None:
            self._leave()
            self._leave = None


class Dispatcher:
    """Collects questions into batches.

    Args:
        answer: Function that answers questions to one model, in its own thread.
        max_batch_size: Most questions of a batch.
        max_queue: Most requests that wait.
        batch_delay_seconds: Time that the first question to an idle model waits for others.
        metrics: Counters to update.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], None],
        *,
        max_batch_size: int,
        max_queue: int,
        batch_delay_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._answer, self._metrics = answer, metrics
        self._max_batch_size, self._max_queue = max_batch_size, max_queue
        self._batch_delay_seconds = batch_delay_seconds
        self._num_places = 0
        self._waiting: list[tuple[Question, Place]] = []
        self._changed = asyncio.Event()
        self._last_batch_seconds = 1.0
        self.is_closing = False

    def check_room(self) -> None:
        """Make sure that there is a place in the queue, before a request is read.

        Raises:
            RequestError: The queue is full, or the server is shutting down.
        """
        if self.is_closing:
            raise self.going_down()
        if self._num_places >= self._max_queue:
            raise RequestError(
                429,
                f"found {self._max_queue} requests waiting, expected fewer: the queue is full\n  fix: try again later",
                code="queue_full",
                retry_after=self._seconds_until_next(),
            )

    def reserve(self) -> Place:
        """Return a place for a complete request; an incomplete one takes none.

        Raises:
            RequestError: The queue is full, or the server is shutting down.
        """
        self.check_room()
        self._num_places += 1
        self._metrics.waiting.set(self._num_places)
        return Place(self._left)

    def submit(self, question: Question, place: Place) -> None:
        """Queue a question; its place is released when its batch begins."""
        if self.is_closing:
            raise self.going_down()
        self._waiting.append((question, place))
        self._changed.set()

    def close(self) -> None:
        """Finish the running batch, and send an error to all waiting requests."""
        self.is_closing = True
        for question, _ in self._waiting:
            question.deliver(self.going_down())
        self._waiting = []
        self._changed.set()

    async def run(self) -> None:
        """Answer batch after batch until the server ends."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers") as pool:
            is_idle = True
            while not (self.is_closing and not self._waiting):
                if not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
                    is_idle = True
                if is_idle and len(self._waiting) < self._max_batch_size:
                    await asyncio.sleep(self._batch_delay_seconds)
                is_idle = False
                if batch := self._next_batch():
                    await self._answer_batch(batch, pool)

    def _next_batch(self) -> list[Question]:
        """Take the question that has waited longest, and later ones to the same model."""
        for question, place in self._waiting:
            if question.is_abandoned:
                place.leave()
        waiting = [entry for entry in self._waiting if not entry[0].is_abandoned]
        batch = [entry for entry in waiting if entry[0].model == waiting[0][0].model][: self._max_batch_size]
        self._waiting = [entry for entry in waiting if entry not in batch]
        for _, place in batch:
            place.leave()
        return [question for question, _ in batch]

    async def _answer_batch(self, batch: list[Question], pool: ThreadPoolExecutor) -> None:
        self._metrics.batch_size.observe(len(batch))
        self._metrics.running.set(len(batch))
        start = time.monotonic()
        answering = asyncio.get_running_loop().run_in_executor(pool, self._answer, batch)
        try:
            await asyncio.wait([answering])
        except asyncio.CancelledError:  # a second Ctrl-C: end at the next token, or shutdown would wait for the thread
            for question in batch:
                question.is_abandoned = True
            raise
        self._last_batch_seconds = time.monotonic() - start
        self._metrics.running.set(0)
        error = answering.exception()
        if error is not None:  # these requests fail, the server continues
            shortage = find_shortage(error)
            if shortage is None:
                _log.error("a batch of %d requests failed", len(batch), exc_info=error)
            else:
                _log.error("too little memory for a batch of %d requests (%s); %s", len(batch), shortage, _SMALLER)
            for question in batch:
                question.deliver(_too_large(len(batch)) if shortage is not None else _failed(error))

    def _left(self) -> None:
        self._num_places -= 1
        self._metrics.waiting.set(self._num_places)

    def _seconds_until_next(self) -> int:
        return min(max(1, math.ceil(self._last_batch_seconds)), _LONGEST_RETRY_SECONDS)

    def going_down(self) -> RequestError:
        """Return the error of a request during shutdown."""
        return RequestError(
            503,
            "found the server shutting down, expected it to be running\n  fix: try again, or another server",
            code="shutting_down",
            retry_after=self._seconds_until_next(),
        )


def _failed(error: BaseException) -> Event:
    return RequestError(
        500,
        f"found an error while answering ({type(error).__name__}), expected an answer\n  fix: see the server's log",
    )


def _too_large(number: int) -> Event:
    return RequestError(
        500,
        f"found too little memory on the server for {counted(number, 'request')} at once, expected room for them\n"
        f"  fix: send fewer or smaller images; on the server, {_SMALLER}",
        code="out_of_memory",
    )
