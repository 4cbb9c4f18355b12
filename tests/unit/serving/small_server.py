"""A server of a few lines, without a model, behind the limits of ``serve`` and ``ui``: small_server.py LIMITS FILES."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from minicpmv.serving.http.address import listen
from minicpmv.serving.http.connections import ConnectionLimits
from minicpmv.serving.http.http_server import run

_LARGE_ANSWER = b"x" * 50_000_000
_eaten: list[int] = []


async def application(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    answer = await _answer(scope["path"], receive)
    length = str(len(answer)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": answer, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _answer(path: str, receive: Callable[[], Awaitable[Any]]) -> bytes:
    if path == "/early":
        return b"answered before the body came"
    body, is_more = 0, True
    while is_more:
        message = await receive()
        is_more = message.get("more_body", False)
        body += len(message.get("body", b""))
    if path == "/late":
        await asyncio.sleep(3)
    if path == "/large":
        return _LARGE_ANSWER
    if path == "/eat":  # all files that are left, for two seconds
        asyncio.get_running_loop().call_later(2, _give_back)
        while True:
            try:
                _eaten.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                return b"eaten"
    return str(body).encode()


def _give_back() -> None:
    while _eaten:
        os.close(_eaten.pop())


def main() -> None:
    most_files = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        limits = ConnectionLimits(**json.loads(sys.argv[1]))
        run(
            application,
            listening,
            limits,
            on_ready=lambda: print(f"port {port}", flush=True),
            on_end=lambda: None,
            seconds_to_end=5,
        )


if __name__ == "__main__":
    main()
