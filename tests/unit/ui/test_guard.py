"""What an event may hold, and how fast a password may be guessed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from minicpmv.ui import guard
from minicpmv.ui.guard import ForeignValueError, guarded, read_event

_META = {"_type": "gradio.FileData"}


@pytest.fixture
def uploaded(tmp_path: Path) -> Path:
    (folder := tmp_path / "uploads").mkdir()
    (path := folder / "cat.png").write_bytes(b"cat")
    return path


def _read(value: Any, folder: Path) -> dict[str, object]:
    return read_event(json.dumps({"data": value}).encode(), upload_folder=str(folder))


def test_an_uploaded_file_passes_with_what_a_browser_says_of_it(uploaded: Path) -> None:
    said = {
        "path": str(uploaded),
        "url": f"http://127.0.0.1:7860/gradio_api/file={uploaded}",
        "orig_name": "cat.png",
        "size": 3,
        "mime_type": "image/png",
        "is_stream": False,
        "meta": _META,
    }
    value = [{"text": "What is it?", "files": [said]}, "", True, 40, None]
    assert _read(value, uploaded.parent) == {"data": value}


@pytest.mark.parametrize(
    "more",
    [
        {"url": "http://evil.example/cat.png"},
        {"url": "file:///etc/passwd"},
        {"url": "http://127.0.0.1/gradio_api/proxy=x"},
        {"is_stream": True},
        {"meta": {"_type": "gradio.Other"}},
        {"meta": {"_type": "gradio.FileData", "path": "/etc/passwd"}},
        {"data": "data:image/png;base64,"},
        {"path": ["/etc/passwd"]},
    ],
)
def test_a_file_says_no_more_than_the_page_sends(more: dict[str, Any], uploaded: Path) -> None:
    with pytest.raises(ForeignValueError):
        _read([{"path": str(uploaded), "meta": _META, **more}], uploaded.parent)


_plain = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_nested = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(around=_nested, key=st.sampled_from(["path", "url", "meta", "is_stream"]), place=st.integers(0, 3))
def test_a_file_object_is_found_wherever_it_is(around: Any, key: str, place: int) -> None:
    evil: Any = {key: "/etc/passwd"}
    for depth in range(place):
        evil = [around, evil] if depth % 2 else {"x": around, "y": evil}
    with pytest.raises(ForeignValueError) as raised:
        _read(evil, Path("/nowhere"))
    assert "passwd" not in str(raised.value)


def test_the_application_is_given_what_was_checked(uploaded: Path) -> None:
    """A key that stands twice could be read otherwise by whoever reads it next."""
    body = f'{{"data": [{{"path": "/etc/passwd", "path": {json.dumps(str(uploaded))}}}]}}'.encode()
    assert read_event(body, upload_folder=str(uploaded.parent)) == {"data": [{"path": str(uploaded)}]}
    status, seen = asyncio.run(_post(_Echo(), "/gradio_api/queue/join", body, uploaded.parent))
    assert status == 200
    assert b"/etc/passwd" not in seen


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b"\xff", b'{"a": ' * 3000, b"[" * 100_000, b'{"data": "' + b"x" * 2**22 + b'"}']
)
def test_what_is_no_event_is_refused(body: bytes, tmp_path: Path) -> None:
    assert asyncio.run(_post(_Echo(), "/gradio_api/queue/join", body, tmp_path))[0] == 400


def test_guesses_of_one_address_slow_down_and_others_do_not_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(guard.asyncio, "sleep", note)
    application = guarded(
        PlainTextResponse("wrong", status_code=400), upload_folder="/x", host="127.0.0.1", has_password=True
    )

    async def guess(address: str, times: int) -> None:
        for _ in range(times):
            await _send(application, "/login", b"", address)

    asyncio.run(guess("10.0.0.1", 12))
    assert waited == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, *[16.0] * 5]
    asyncio.run(guess("10.0.0.2", 1))
    assert len(waited) == 11


class _Echo:
    """Answers with the request's body."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse((await receive())["body"])(scope, receive, send)


async def _post(application: Any, path: str, body: bytes, folder: Path) -> tuple[int, bytes]:
    made = guarded(application, upload_folder=str(folder), host="127.0.0.1", has_password=False)
    return await _send(made, path, body, "10.0.0.1")


async def _send(application: Any, path: str, body: bytes, address: str) -> tuple[int, bytes]:
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"host", b"127.0.0.1")],
        "client": (address, 1),
    }
    seen: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        seen.append(message)

    await application(scope, receive, send)
    assert dict(seen[0]["headers"])[b"x-content-type-options"] == b"nosniff"
    return seen[0]["status"], b"".join(message.get("body", b"") for message in seen[1:])
