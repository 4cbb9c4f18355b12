"""Builds the web application: its addresses, and its start and end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from minicpmv.serving.answers.batch import answer_together
from minicpmv.serving.answers.dispatcher import Dispatcher
from minicpmv.serving.answers.responses import error_response, json_response, model_object
from minicpmv.serving.answers.served_models import ServedModels
from minicpmv.serving.completion import ChatCompletions
from minicpmv.serving.errors import RequestError, unknown_model
from minicpmv.serving.http.access import Access
from minicpmv.serving.http.bodies import Bodies
from minicpmv.serving.metrics import Metrics
from minicpmv.serving.settings import ServerSettings

__all__ = ["make_application", "refuse_page"]

_READERS = 8
"""Threads that read requests: enough that a slow web address does not delay other requests."""
_BODIES_IN_MEMORY = 16
"""Number of largest bodies that may be held while they are being read."""


def make_application(served: ServedModels, settings: ServerSettings) -> tuple[Starlette, Callable[[], None]]:
    """Build the application; also return the function to call when shutdown begins."""
    metrics, access = Metrics(), Access(settings.api_key)
    dispatcher = Dispatcher(
        partial(answer_together, served),
        max_batch_size=settings.max_batch_size,
        max_queue=settings.max_queue,
        batch_delay_seconds=settings.batch_delay_seconds,
        metrics=metrics,
    )
    readers = ThreadPoolExecutor(_READERS, thread_name_prefix="readers")
    models = [model_object(name, created=int(time.time())) for name in served.adapters]
    most = _BODIES_IN_MEMORY * settings.max_body_bytes
    bodies = Bodies(max_bytes=settings.max_body_bytes, max_total_bytes=most)
    completions = ChatCompletions(
        served, dispatcher, access=access, bodies=bodies, settings=settings, metrics=metrics, readers=readers
    )

    def close() -> None:
        dispatcher.close()
        bodies.close(dispatcher.going_down())

    async def list_models(request: Request) -> Response:
        access.check(request)
        return json_response({"object": "list", "data": models})

    async def show_model(request: Request) -> Response:
        access.check(request)
        name = request.path_params["name"]
        for model in models:
            if model["id"] == name:
                return json_response(model)
        raise unknown_model(name, served.adapters)

    async def health(request: Request) -> Response:
        if dispatcher.is_closing:
            return json_response({"status": "ending"}, status=503)
        return json_response({"status": "ok"})

    async def show_metrics(request: Request) -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @contextlib.asynccontextmanager
    async def life(application: Starlette) -> AsyncIterator[None]:
        answering = asyncio.create_task(dispatcher.run())
        yield
        close()
        await answering
        readers.shutdown(wait=False, cancel_futures=True)

    routes = [
        Route("/v1/chat/completions", completions, methods=["POST"]),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:path}", show_model),
        Route("/health", health),
        Route("/metrics", show_metrics),
    ]
    handlers = {RequestError: _refuse, HTTPException: _refuse_address}
    return Starlette(routes=routes, lifespan=life, exception_handlers=handlers), close


def refuse_page(found: str, expected: str, fix: str) -> Response:
    """Return the response to a request that comes from another web page."""
    message = f"host, origin: found {found}, expected {expected}\n  fix: {fix}"
    return error_response(RequestError(403, message, code="foreign_page"))


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _refuse_address(request: Request, error: Exception) -> Response:
    """Answer in OpenAI's form for an unknown address or method."""
    assert isinstance(error, HTTPException)
    message = f"found {request.method} {request.url.path!a:.200} ({error.detail}), expected an address of this server"
    return error_response(
        RequestError(error.status_code, f"{message}\n  fix: POST /v1/chat/completions, or GET /v1/models")
    )
