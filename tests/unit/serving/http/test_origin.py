"""Which requests another web page may have made a browser send."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from minicpmv.serving.http.origin import OriginGuard, own_names


def _status(*headers: tuple[str, str], names: frozenset[str] | None = frozenset({"localhost"})) -> int:
    """Send a request with these headers past the guard; 200 comes from behind it."""
    behind = PlainTextResponse("answered")
    guard = OriginGuard(behind, names=names, refuse=lambda *_: PlainTextResponse("refused", status_code=403))
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

    asyncio.run(guard({"type": "http", "method": "GET", "headers": pairs}, receive, send))
    (status,) = statuses
    return status


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "localhost:8000",
        "LOCALHOST",
        "192.168.0.7:80",
        "10.0.0.1",
        "[fe80::1]",
    ],
)
def test_addresses_and_own_names_are_hosts(host: str) -> None:
    assert _status(("host", host)) == 200
    assert _status(("host", host), ("origin", f"http://{host}")) == 200
    assert _status(("host", host), ("origin", f"https://{host}")) == 200, "behind a proxy that adds TLS"


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1.x"),
        *("", "127.0.0.1 evil.example", "127.0.0.1\tx", "[::1", "2130706433.example", "\xff", "//evil.example"),
    ],
)
def test_other_names_are_not(host: str) -> None:
    assert _status(("host", host)) == 403


def test_a_host_is_named_once() -> None:
    assert _status() == 403
    assert _status(("host", "127.0.0.1"), ("host", "evil.example")) == 403


def test_any_name_will_do_where_a_key_guards_the_server_and_no_foreign_page() -> None:
    assert _status(("host", "models.example"), names=None) == 200
    assert _status(("host", "models.example"), ("origin", "https://evil.example"), names=None) == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1:9", "file://", "http://[", "127.0.0.1"]
)
def test_other_pages_are_refused(origin: str) -> None:
    assert _status(("host", "127.0.0.1"), ("origin", origin)) == 403


def test_own_names_hold_the_address_at_which_the_server_listens() -> None:
    assert {"localhost", "models.lan"} <= own_names("Models.LAN")
    assert "::1" in own_names("[::1]")
