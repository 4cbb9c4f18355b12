"""Reads the bodies of requests within a common memory limit."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from minicpmv.serving.errors import RequestError

__all__ = ["Bodies", "Body"]

_RETRY_SECONDS = 5


class Body:
    """Reads one body, whose bytes count until ``release``."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.num_bytes = 0
        self.is_whole = False
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read(self, request: Request) -> bytes:
        """Return the whole body.

        Raises:
            RequestError: The body is too long, or dropped to make room. uvicorn receives and discards the rest,
                so that a client that sends everything before it reads still sees the response.
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
        """Stop counting the bytes; calling it again is a no-op."""
        self._bodies.forget(self)
        if self.given_up.done():
            self.given_up.exception()  # asyncio complains about an exception that is never retrieved
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
            content.clear()  # an error's traceback may hold this frame for a long time


class Bodies:
    """Tracks all bodies that are being read or not yet parsed, oldest first.

    If their total would exceed the limit, the oldest incomplete one is dropped: a client that sends part
    of a body and stops loses its own request, and does not block others.

    Args:
        max_bytes: Limit of one body.
        max_total_bytes: Limit of all bodies.
    """

    def __init__(self, *, max_bytes: int, max_total_bytes: int) -> None:
        self._max_bytes, self._max_total_bytes = max_bytes, max_total_bytes
        self._bodies: dict[Body, None] = {}

    def begin(self) -> Body:
        """Return a body to read and then release."""
        body = Body(self)
        self._bodies[body] = None
        return body

    def forget(self, body: Body) -> None:
        """Stop counting a body."""
        self._bodies.pop(body, None)

    def check(self, body: Body) -> None:
        """Check the limits after a body has grown.

        Raises:
            RequestError: The body is too long.
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
        """Drop all incomplete bodies."""
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
