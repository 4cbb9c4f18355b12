"""Reads the bodies of requests, all of them together within a limit of memory."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from minicpmv.serving.errors import RequestError

__all__ = ["Bodies", "Body"]

_RETRY_SECONDS = 5


class Body:
    """One body, whose bytes count until ``release``."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.num_bytes = 0
        self.is_whole = False
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read(self, request: Request) -> bytes:
        """Return all of it.

        Raises:
            RequestError: It is too long, or given up to make room. What is still to come of it uvicorn receives and
                forgets, so that a client that sends all before it reads sees the answer.
        """
        reading = asyncio.ensure_future(self._collect(request))
        try:
            await asyncio.wait({reading, self.given_up}, return_when=asyncio.FIRST_COMPLETED)
            if self.given_up.done():
                self.given_up.result()
            return reading.result()
        finally:
            reading.cancel()

    def release(self) -> None:
        """Count the bytes no more; a second time changes nothing."""
        self._bodies.forget(self)
        if self.given_up.done():
            self.given_up.exception()  # asyncio complains about one that nobody has looked at
        else:
            self.given_up.cancel()

    async def _collect(self, request: Request) -> bytes:
        content = bytearray()
        try:
            async for piece in request.stream():
                content += piece
                self.num_bytes = len(content)
                self._bodies.check(self)
            self.is_whole = True
            return bytes(content)
        finally:
            content.clear()  # an error's traceback may hold this frame for long


class Bodies:
    """All bodies that are being read, or read and not yet understood, the oldest first.

    Where they would become too many bytes, the one that has been coming longest is given up: a client that sends part
    of a body and stops loses its own request, and keeps nobody else from sending theirs.

    Args:
        max_bytes: Of one body.
        max_total_bytes: Of all.
    """

    def __init__(self, *, max_bytes: int, max_total_bytes: int) -> None:
        self._max_bytes, self._max_total_bytes = max_bytes, max_total_bytes
        self._bodies: dict[Body, None] = {}

    def begin(self) -> Body:
        """Return a body that is to be read, and released."""
        body = Body(self)
        self._bodies[body] = None
        return body

    def forget(self, body: Body) -> None:
        """Count a body no more."""
        self._bodies.pop(body, None)

    def check(self, body: Body) -> None:
        """Look at the sizes, now that a body has grown.

        Raises:
            RequestError: It is too long.
        """
        if body.num_bytes > self._max_bytes:
            raise RequestError(
                413,
                f"body: found more than {self._max_bytes} bytes, expected fewer\n  fix: shrink the images",
                code="request_too_large",
            )
        while sum(other.num_bytes for other in self._bodies) > self._max_total_bytes:
            oldest = next((other for other in self._bodies if not other.is_whole), body)
            self._give_up(oldest, _no_room(self._max_total_bytes))

    def close(self, error: RequestError) -> None:
        """Give up all bodies that are not whole."""
        for body in [body for body in self._bodies if not body.is_whole]:
            self._give_up(body, error)

    def _give_up(self, body: Body, error: RequestError) -> None:
        self.forget(body)
        if not body.given_up.done():
            body.given_up.set_exception(error)


def _no_room(most: int) -> RequestError:
    return RequestError(
        503,
        f"body: found more than {most} bytes of requests being read, expected fewer: the server has no room for more\n"
        "  fix: try again later, and send the whole body at once",
        code="overloaded",
        retry_after=_RETRY_SECONDS,
    )
