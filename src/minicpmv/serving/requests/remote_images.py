"""Fetches an image or film from the web without giving a client access to this machine's network.

A name is resolved once, all its addresses must be public, and the connection goes to the checked address: a
name that resolves differently afterwards has no effect. The same holds for every redirect. No proxy of the environment
is used, since it would resolve names itself.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Literal
from urllib.parse import urljoin

import httpx2

from minicpmv.serving.errors import refused
from minicpmv.serving.requests.public_addresses import is_public

__all__ = ["fetch"]

_MAX_REDIRECTS = 3
_TIMEOUT_SECONDS = 15.0
"""Seconds for one image, including redirects."""
_FIX = "send its bytes as a data: URL"
_WORDS = {"image": "an image", "film": "a film"}
_ACCEPTED = {"image": "image/*", "film": "video/*, image/*"}


def fetch(
    url: str,
    where: str,
    *,
    max_bytes: int,
    timeout_seconds: float = _TIMEOUT_SECONDS,
    is_allowed: Callable[[str], bool] = is_public,
    kind: Literal["image", "film"] = "image",
) -> bytes:
    """Return the content of a web address.

    Args:
        url: Address, which begins with ``http://`` or ``https://``.
        where: Name for it in an error.
        max_bytes: Largest response.
        timeout_seconds: Time until its last byte.
        is_allowed: Returns whether an IP address may be connected to.
        kind: What is expected there.

    Raises:
        RequestError: It cannot be fetched, is too large, or leads to an address that is not public.
    """
    deadline, expected = time.monotonic() + timeout_seconds, _WORDS[kind]
    try:
        # No connection is reused: one address may serve several names, each with its own certificate.
        limits = httpx2.Limits(max_keepalive_connections=0)
        with httpx2.Client(trust_env=False, follow_redirects=False, timeout=timeout_seconds, limits=limits) as client:
            for _ in range(_MAX_REDIRECTS + 1):
                with closing(client.send(_request(client, url, where, is_allowed, kind), stream=True)) as response:
                    if response.is_redirect:
                        url = urljoin(url, response.headers.get("location", ""))
                        continue
                    if response.status_code != 200:
                        raise refused(where, f"status {response.status_code} at its address", expected, _FIX)
                    return _read(response, where, max_bytes, deadline, kind)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:  # OSError: a name that does not resolve
        raise refused(where, f"an address that cannot be fetched ({type(error).__name__})", expected, _FIX) from error
    raise refused(where, f"more than {_MAX_REDIRECTS} redirects", expected, _FIX)


def _request(
    client: httpx2.Client, url: str, where: str, is_allowed: Callable[[str], bool], kind: str
) -> httpx2.Request:
    """Make a request to a checked address."""
    target = httpx2.URL(url)
    if target.scheme not in ("http", "https") or not target.host:
        raise refused(where, "an address that is not http or https", f"{_WORDS[kind]} on the web", _FIX)
    port = target.port or (443 if target.scheme == "https" else 80)
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(target.host, port, type=socket.SOCK_STREAM)]
    if not all(is_allowed(address) for address in found):
        raise refused(where, "an address that is not public", f"{_WORDS[kind]} on the public web", _FIX)
    return client.build_request(
        "GET",
        target.copy_with(host=found[0]),
        headers={"host": target.netloc.decode("ascii"), "accept": _ACCEPTED[kind], "accept-encoding": "identity"},
        extensions={"sni_hostname": target.host},  # certificates are checked against the name, not the address
    )


def _read(response: httpx2.Response, where: str, max_bytes: int, deadline: float, kind: str) -> bytes:
    content = bytearray()
    for piece in response.iter_raw():
        content += piece
        if len(content) > max_bytes:
            raise refused(where, f"more than {max_bytes} bytes", f"a smaller {kind}", f"shrink the {kind}")
        if time.monotonic() > deadline:  # one byte a second would never hit the HTTP client's own limit
            raise refused(where, "an address that takes too long", f"{_WORDS[kind]} in time", _FIX)
    return bytes(content)
