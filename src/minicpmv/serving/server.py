"""Listens, and ends well: after SIGTERM nobody new is let in, and who is being answered gets the whole answer."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Callable

import uvicorn

from minicpmv.serving.application import make_application, refuse_page
from minicpmv.serving.dispatcher import Dispatcher
from minicpmv.serving.origin import OriginGuard, own_names
from minicpmv.serving.served_models import ServedModels
from minicpmv.serving.settings import ServerSettings

__all__ = ["serve"]


def serve(
    served: ServedModels, settings: ServerSettings, listening: socket.socket, *, on_ready: Callable[[], None]
) -> None:
    """Answer requests until SIGTERM, which ends this with a normal return, or Ctrl-C.

    Args:
        served: Who answers.
        settings: Limits.
        listening: From ``address.listen``.
        on_ready: Called when requests are taken.
    """
    served.loaded.processor.vocabulary  # noqa: B018  made once, here, and not by several readers at the same time
    application, dispatcher = make_application(served, settings)
    names = None if settings.api_key is not None else own_names(settings.host)
    config = uvicorn.Config(
        OriginGuard(application, names=names, refuse=refuse_page),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        # By then every request has run into its own limit.
        timeout_graceful_shutdown=math.ceil(settings.request_timeout_seconds) + 5,
    )
    # uvicorn raises a signal again when it has ended well, and SIGTERM would then end the process as a failed one.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _Server(config, dispatcher, on_ready).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, dispatcher: Dispatcher, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._dispatcher, self._on_ready = dispatcher, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._dispatcher.close()
        await super().shutdown(sockets)
