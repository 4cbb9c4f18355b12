"""Bodies together stay within their limit, and who does not finish one loses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from minicpmv.serving.errors import RequestError
from minicpmv.serving.http.bodies import Bodies, Body


class Sender:
    """A client that sends pieces when it is told to."""

    def __init__(self, bodies: Bodies) -> None:
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.body: Body = bodies.begin()
        request = Request({"type": "http", "method": "POST", "headers": []}, self._pieces.get)
        self.reading = asyncio.ensure_future(self.body.read(request))

    async def send(self, size: int, *, is_last: bool = False) -> None:
        self._pieces.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": not is_last})
        for _ in range(5):
            await asyncio.sleep(0)


def run(act: Callable[[Bodies], Awaitable[None]]) -> None:
    async def with_bodies() -> None:
        await act(Bodies(max_bytes=10, max_total_bytes=20))

    asyncio.run(with_bodies())


def test_a_body_is_what_was_sent() -> None:
    async def act(bodies: Bodies) -> None:
        sender = Sender(bodies)
        await sender.send(4)
        await sender.send(6, is_last=True)
        assert await sender.reading == b"x" * 10
        sender.body.release()

    run(act)


def test_one_that_is_too_long_is_refused() -> None:
    async def act(bodies: Bodies) -> None:
        sender = Sender(bodies)
        await sender.send(11)
        with pytest.raises(RequestError, match="found more than 10 bytes") as caught:
            await sender.reading
        assert caught.value.status == 413

    run(act)


def test_the_oldest_that_is_not_whole_makes_room() -> None:
    async def act(bodies: Bodies) -> None:
        whole, half, other, new = (Sender(bodies) for _ in range(4))
        await whole.send(8, is_last=True)
        await half.send(5)
        await other.send(5)
        await new.send(2)
        assert not half.reading.done()
        await new.send(1)
        with pytest.raises(RequestError, match="the server has no room for more") as caught:
            await half.reading
        assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "5")
        await new.send(7, is_last=True)  # 8 + 5 + 10: the other one must leave, too
        assert await new.reading == b"x" * 10
        with pytest.raises(RequestError):
            await other.reading
        assert await whole.reading == b"x" * 8

    run(act)


def test_bodies_that_are_whole_stay_until_they_are_understood() -> None:
    async def act(bodies: Bodies) -> None:
        first, second, third = (Sender(bodies) for _ in range(3))
        await first.send(10, is_last=True)
        await second.send(10, is_last=True)
        await third.send(1)
        with pytest.raises(RequestError, match="no room"):
            await third.reading
        first.body.release()
        fourth = Sender(bodies)
        await fourth.send(10, is_last=True)
        assert await fourth.reading == b"x" * 10

    run(act)


def test_at_the_end_only_whole_ones_stay() -> None:
    async def act(bodies: Bodies) -> None:
        whole, half = Sender(bodies), Sender(bodies)
        await whole.send(3, is_last=True)
        await half.send(3)
        bodies.close(RequestError(503, "about to end"))
        with pytest.raises(RequestError, match="about to end"):
            await half.reading
        assert await whole.reading == b"xxx"

    run(act)
