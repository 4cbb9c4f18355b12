"""Guards Gradio, and lets through only the requests that this page's own script sends.

Gradio copies a file into its upload folder, and serves it from there, when a request holds an object that looks like
one of its own, in any field. It also has addresses for much that this page does not use. So this is an
allow-list: addresses are those of this page, a request's values are plain, and its files are those that were uploaded.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.responses import PlainTextResponse

from minicpmv.serving.http.origin import OriginGuard, own_names

__all__ = ["ForeignValueError", "guarded", "read_event"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

# Addresses that the page's script uses. Everything else of Gradio (other apps' files, its API by name, recordings, code
# editing, monitoring) is closed.
_READ = re.compile(
    r"/|/(?:config|user|login_check|token|app_id|theme\.css|favicon\.ico|manifest\.json|robots\.txt|logout)/?"
    r"|/(?:assets|static|svelte)/[\w./@+-]+"
    r"|/gradio_api/(?:user|login_check|token|app_id|startup-events|theme\.css)/?"
    r"|/gradio_api/(?:queue/data|upload_progress)"
    r"|/gradio_api/heartbeat/\w+"
    r"|/gradio_api/file=.+",
    re.ASCII,
)
_WRITTEN = re.compile(r"/login/?|/gradio_api/(?:queue/join|run/predict|cancel|reset|upload)/?")
_IN_JSON = re.compile(r"/gradio_api/(?:queue/join|run/predict|cancel|reset)/?")
_MAX_JSON_BYTES = 4 * 2**20
_MAX_NESTING = 6
_MARKS_OF_FILES = {"path", "url", "meta", "is_stream"}
_FILE_KEYS = {"path", "url", "size", "orig_name", "mime_type", "is_stream", "meta", "uid", "alt_text"}

# The page has inline scripts and styles, so these must be allowed; nothing from another address is, and no page
# of another address may embed this one.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.25, 16.0
_MAX_WAITING_GUESSES = 4
_MAX_ADDRESSES = 1000


class ForeignValueError(Exception):
    """Rejects a request that this page does not send."""


def guarded(application: Any, *, upload_folder: str, host: str, has_password: bool) -> Any:
    """Wrap an application in the guards.

    Args:
        application: Gradio's application.
        upload_folder: Folder of the uploads.
        host: The address at which the page listens.
        has_password: Whether a password protects it; then the page may be opened under any name.
    """
    names = None if has_password else own_names(host)
    return OriginGuard(_Guard(application, upload_folder), names=names, refuse=_refusal)


def _refusal(found: str, expected: str, fix: str) -> Any:
    return PlainTextResponse(f"found {found}, expected {expected}\n  fix: {fix}\n", status_code=403)


class _Guard:
    def __init__(self, application: Any, upload_folder: str) -> None:
        self._application, self._upload_folder = application, upload_folder
        self._guesses = _Guesses()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def send_guarded(message: _Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in _HEADERS]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        path, method = scope["path"], scope["method"]
        allowed = _READ if method in ("GET", "HEAD") else _WRITTEN if method == "POST" else None
        if allowed is None or not allowed.fullmatch(path):
            await PlainTextResponse("there is nothing at this address\n", status_code=404)(scope, receive, send_guarded)
        elif method == "POST" and path.rstrip("/") == "/login":
            await self._guesses.pass_on(self._application, scope, receive, send_guarded)
        elif method == "POST" and _IN_JSON.fullmatch(path):
            await self._pass_checked(scope, receive, send_guarded)
        else:
            await self._application(scope, receive, send_guarded)

    async def _pass_checked(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        try:
            event = read_event(await _read_all(receive), upload_folder=self._upload_folder)
        except ForeignValueError as error:
            await PlainTextResponse(f"{error}\n", status_code=400)(scope, receive, send)
            return
        body, is_given = json.dumps(event).encode(), False  # only the checked values, whatever else the body held

        async def receive_checked() -> _Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._application(scope, receive_checked, send)


async def _read_all(receive: _Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ForeignValueError("the request has no end")
        body += message.get("body", b"")
        if len(body) > _MAX_JSON_BYTES:
            raise ForeignValueError(
                f"found a request of more than {_MAX_JSON_BYTES:,} bytes, expected what the page sends"
            )
        if not message.get("more_body", False):
            return bytes(body)


def read_event(body: bytes, *, upload_folder: str) -> dict[str, object]:
    """Read the body of an event, whose values must be plain or uploaded files. Messages do not repeat any of them.

    Args:
        body: JSON, as the page's script sends it.
        upload_folder: Folder of the uploads.

    Raises:
        ForeignValueError: The body holds something else.
    """
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ForeignValueError("found something that is not JSON, expected what the page sends") from error
    if not isinstance(event, dict):
        raise ForeignValueError("found something that is not an object, expected what the page sends")
    fields = cast("dict[str, object]", event)
    _check(fields, os.path.realpath(upload_folder), nesting=0)
    return fields


def _check(value: object, folder: str, *, nesting: int) -> None:
    if nesting > _MAX_NESTING:
        raise ForeignValueError("found values nested too deeply, expected what the page sends")
    if isinstance(value, list):
        for entry in cast("list[object]", value):
            _check(entry, folder, nesting=nesting + 1)
    elif isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        if _MARKS_OF_FILES & fields.keys():
            _check_file(fields, folder)
        for entry in fields.values():
            _check(entry, folder, nesting=nesting + 1)


def _check_file(fields: dict[str, object], folder: str) -> None:
    """Make sure that an object with any key of a file refers to an upload, and to nothing that would be fetched."""
    path, meta = fields.get("path"), fields.get("meta")
    if not isinstance(path, str) or not _is_uploaded(path, folder):
        raise ForeignValueError("found a file that was not uploaded, expected an uploaded one")
    url = fields.get("url")
    is_own_url = url is None or (
        isinstance(url, str) and re.fullmatch(r"(https?://[^/?#\\]+)?/gradio_api/file=.+", url)
    )
    if not fields.keys() <= _FILE_KEYS or fields.get("is_stream") or not is_own_url:
        raise ForeignValueError("found a file with more keys than the page sends, expected a path")
    if meta is not None and meta != {"_type": "gradio.FileData"}:
        raise ForeignValueError("found a file of another kind, expected a path")


def _is_uploaded(path: str, folder: str) -> bool:
    """Return whether a path is a regular file in the upload folder, reached without a link."""
    try:
        is_file = stat.S_ISREG(os.lstat(path).st_mode)
        real = os.path.realpath(path)
    except (OSError, ValueError):  # a NUL in the path
        return False
    return is_file and os.path.isabs(path) and real.startswith(folder + os.sep)


@dataclass(slots=True)
class _Guesser:
    failures: int = 0
    waiting: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Guesses:
    """Lets each address try one password at a time, with a longer delay after every wrong one."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    async def pass_on(self, application: Any, scope: _Message, receive: _Receive, send: _Send) -> None:
        address = str((scope.get("client") or ("",))[0])
        guesser = self._guessers.setdefault(address, _Guesser())
        self._guessers.move_to_end(address)
        while len(self._guessers) > _MAX_ADDRESSES:
            self._guessers.popitem(last=False)
        if guesser.waiting >= _MAX_WAITING_GUESSES:
            refused = PlainTextResponse("too many guesses at once; wait for the answer\n", status_code=429)
            await refused(scope, receive, send)
            return

        async def note(message: _Message) -> None:
            if message["type"] == "http.response.start":
                guesser.failures = 0 if message["status"] < 400 else guesser.failures + 1
            await send(message)

        guesser.waiting += 1
        try:
            async with guesser.lock:
                if guesser.failures:
                    delay = _FIRST_DELAY_SECONDS * 2.0 ** min(guesser.failures - 1, 10)
                    await asyncio.sleep(min(delay, _LONGEST_DELAY_SECONDS))
                await application(scope, receive, note)
        finally:
            guesser.waiting -= 1
