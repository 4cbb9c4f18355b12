"""uvicorn as ``serve`` and ``ui`` run it: with limits for connections and log, and an orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from minicpmv.serving.http.connections import ConnectionLimits, Crowd, make_protocol
from minicpmv.serving.http.door import Door, most_connections
from minicpmv.serving.http.log_limits import LogLimit, limit_log

__all__ = ["run"]

_SWEEP_SECONDS = 1.0


def run(
    application: Any,
    listening: socket.socket,
    limits: ConnectionLimits,
    *,
    on_ready: Callable[[], None],
    on_end: Callable[[], None],
    seconds_to_end: int,
    log_level: str = "info",
) -> None:
    """Answer requests until SIGTERM, which ends this with a normal return, or Ctrl-C.

    Args:
        application: ASGI's.
        listening: Taken over: it cannot be used afterwards.
        limits: For connections.
        on_ready: Called when requests are taken.
        on_end: Called when the server begins to end.
        seconds_to_end: How long answers that are being written may take then.
        log_level: uvicorn's.
    """
    crowd = Crowd(limits)
    config = uvicorn.Config(
        application,
        http=make_protocol(crowd),
        ws="none",
        loop="asyncio",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,  # a line for whatever anybody sends
        log_level=log_level,
        use_colors=False,  # `escapes` writes control characters within a line out
        timeout_graceful_shutdown=seconds_to_end,
    )
    log_limit = limit_log()
    with Door(listening, crowd, most_connections(limits.files_per_connection)) as door:
        # uvicorn raises a signal again when it has ended well, and SIGTERM would then end the process as a failed one.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            _Server(config, crowd, log_limit, on_ready, on_end).run(sockets=[door])
        finally:
            signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        crowd: Crowd,
        log_limit: LogLimit,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._crowd, self._log_limit, self._on_ready, self._on_end = crowd, log_limit, on_ready, on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._sweeping = asyncio.create_task(self._sweep())
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_end()
        await super().shutdown(sockets)
        self._sweeping.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._crowd.sweep(asyncio.get_running_loop().time())
            self._log_limit.summarize()
