"""Images from the web, and what must not be reached by asking for them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minicpmv.serving.errors import RequestError
from minicpmv.serving.requests.remote_images import fetch


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(f"{self.headers['Host']}{self.path}")  # pyright: ignore[reportAttributeAccessIssue]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked has seen enough
            for _ in range(40 if self.path == "/slow" else 1):
                self.wfile.write(b"x" * 1000)
                self.wfile.flush()
                if self.path == "/slow":
                    time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    server.daemon_threads = True
    server.asked = []  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(site: ThreadingHTTPServer, path: str, *, max_bytes: int = 5000, allowed: str = "127.0.0.1") -> bytes:
    url = f"http://localhost:{site.server_port}{path}"
    return fetch(
        url,
        "image 0",
        max_bytes=max_bytes,
        timeout_seconds=0.5,
        is_allowed=lambda address: address.startswith(allowed) or address == "::1",
    )


def test_an_image_is_fetched_under_its_own_name(site: ThreadingHTTPServer) -> None:
    assert get(site, "/a.png") == b"x" * 1000
    assert site.asked == [f"localhost:{site.server_port}/a.png"]  # pyright: ignore[reportAttributeAccessIssue]


def test_an_address_of_this_machine_is_not_connected_to(site: ThreadingHTTPServer) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(RequestError, match="found an address that is not public"):
            fetch(f"http://{host}:{site.server_port}/a.png", "image 0", max_bytes=5000)
    assert site.asked == []  # pyright: ignore[reportAttributeAccessIssue]


def test_a_redirect_is_checked_as_the_first_address_was(site: ThreadingHTTPServer) -> None:
    assert get(site, "/to//a.png") == b"x" * 1000
    for target, message in (
        ("http://10.0.0.1/secret", "not public"),
        ("file:///etc/passwd", "not http or https"),
        ("/to//to//to//to//a.png", "more than 3 redirects"),
    ):
        with pytest.raises(RequestError, match=message):
            get(site, f"/to/{target}")


@pytest.mark.parametrize(
    ("path", "max_bytes", "message"),
    [
        ("/missing", 5000, "found status 404 at its address"),
        ("/a.png", 999, "found more than 999 bytes"),
        ("/slow", 10**6, "found an address that takes too long"),
    ],
)
def test_what_is_no_image_in_time_is_refused(
    site: ThreadingHTTPServer, path: str, max_bytes: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        get(site, path, max_bytes=max_bytes)


def test_a_name_that_nobody_knows_is_refused() -> None:
    for url in ("http://no.such.name.invalid/a.png", "http://[::/a", "http://" + "a" * 70 + "/"):
        with pytest.raises(RequestError, match="image 0: found an address that cannot be fetched"):
            fetch(url, "image 0", max_bytes=10)
