"""Runs the server with a graceful shutdown: after SIGTERM no new request is accepted, and running answers finish."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

from minicpmv.serving.answers.served_models import ServedModels
from minicpmv.serving.application import make_application, refuse_page
from minicpmv.serving.http.connections import ConnectionLimits
from minicpmv.serving.http.http_server import run
from minicpmv.serving.http.origin import OriginGuard, own_names
from minicpmv.serving.settings import ServerSettings

__all__ = ["serve"]

_HEADER_SECONDS = 10.0


def serve(
    served: ServedModels, settings: ServerSettings, listening: socket.socket, *, on_ready: Callable[[], None]
) -> None:
    """Answer requests until Ctrl-C, or until SIGTERM, after which this returns normally.

    Args:
        served: The models.
        settings: Limits of the server.
        listening: Socket from ``address.listen``, which this takes over.
        on_ready: Called when requests are accepted.
    """
    served.loaded.processor.vocabulary  # noqa: B018  built once here, not by several readers at the same time
    application, close = make_application(served, settings)
    names = None if settings.api_key is not None else own_names(settings.host)
    seconds = settings.request_timeout_seconds
    limits = ConnectionLimits(
        header_seconds=min(_HEADER_SECONDS, seconds),
        stall_seconds=min(_HEADER_SECONDS, seconds),
        # By then the application's own limit has ended the request with an error.
        body_seconds=seconds + 2,
        request_seconds=seconds + 5,
    )
    run(
        OriginGuard(application, names=names, refuse=refuse_page),
        listening,
        limits,
        on_ready=on_ready,
        on_end=close,
        seconds_to_end=math.ceil(seconds) + 5,
    )
