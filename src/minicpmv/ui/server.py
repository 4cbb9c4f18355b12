"""Serves the page until Ctrl-C. It loads nothing from other machines and sends nothing to them."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Callable, Sequence
from importlib.resources import files

import gradio
from fastapi import FastAPI
from gradio.routes import App
from gradio.themes import Base, Default
from gradio.utils import get_upload_folder
from starlette.routing import Mount

from minicpmv.data.records.record import Record
from minicpmv.serving.http.connections import ConnectionLimits
from minicpmv.serving.http.http_server import run
from minicpmv.ui.examples.records import Examples
from minicpmv.ui.guard import guarded
from minicpmv.ui.page import Page
from minicpmv.ui.session import Room
from minicpmv.ui.settings import PageSettings

__all__ = ["make_application", "serve"]

_SECONDS_TO_END = 3


def make_application(page: Page, settings: PageSettings) -> FastAPI:
    """Put the page at the root of a web application. It must be wrapped in ``guard.guarded``."""

    def is_let_in(name: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), str(settings.password).encode())  # constant time

    # Without this, which only `launch` sets, Gradio does not check that a file in a request was uploaded.
    page.blocks.has_launched = True
    return gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page.blocks,
        path="/",
        auth=None if settings.password is None else is_let_in,
        auth_message="Any name, and the password that the page was started with.",
        max_file_size=settings.max_image_bytes,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        theme=_theme(),
        css=_asset("page.css"),
        js=_asset("page.js"),
    )


def _theme() -> Base:
    theme = Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),  # the browser's own fonts: nothing is fetched
        font_mono=("ui-monospace", "monospace"),
    )
    # Gradio's own quiet text has a contrast of 2.6; 4.5 is the least that people with weak eyes read (WCAG 2, AA).
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def _asset(name: str) -> str:
    return files("minicpmv.ui").joinpath(f"assets/{name}").read_text(encoding="utf-8")


def serve(
    room: Room,
    settings: PageSettings,
    listening: socket.socket,
    *,
    on_ready: Callable[[], None],
    examples: tuple[Sequence[Record], str] | None = None,
) -> None:
    """Serve the page until Ctrl-C, or until SIGTERM, after which this returns normally.

    Args:
        room: The models that answer.
        settings: Limits and initial values.
        listening: Socket from ``serving.http.address.listen``, which this closes.
        on_ready: Called when the page can be opened.
        examples: Records that can be asked, and their file as the user wrote it.
    """
    folder = get_upload_folder()
    offered = None if examples is None else Examples(examples[0], source=examples[1], folder=folder)
    page = Page(room, settings, offered)
    application = make_application(page, settings)
    guard = guarded(
        application,
        upload_folder=folder,
        host=settings.host,
        has_password=settings.password is not None,
    )

    def end() -> None:
        page.stop()
        for route in application.routes:
            if isinstance(route, Mount) and isinstance(route.app, App):
                route.app.stop_event.set()  # open tabs hold a connection, which would delay the end

    limits = ConnectionLimits(files_per_connection=2)  # the second is the upload
    run(
        guard,
        listening,
        limits,
        on_ready=on_ready,
        on_end=end,
        seconds_to_end=_SECONDS_TO_END,
        log_level="warning",
    )
