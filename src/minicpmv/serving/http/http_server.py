"""Runs uvicorn for ``serve`` and ``ui``, with limits for connections and log, and a graceful shutdown."""

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
    """Answer requests until Ctrl-C, or until SIGTERM, after which this returns normally.

    Args:
        application: ASGI application.
        listening: Socket, which this takes over and which must not be used afterwards.
        limits: Limits for connections.
        on_ready: Called when requests are accepted.
        on_end: Called when shutdown begins.
        seconds_to_end: Time for running answers to finish then.
        log_level: uvicorn's log level.
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
        access_log=False,  # it would write a line for every request of every client
        log_level=log_level,
        use_colors=False,  # `escapes` would show the control characters
        timeout_graceful_shutdown=seconds_to_end,
    )
    log_limit = limit_log()
    with Door(listening, crowd, most_connections(limits.files_per_connection)) as door:
        # uvicorn re-raises the signal after a clean shutdown, and SIGTERM would then end the process as failed.
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
