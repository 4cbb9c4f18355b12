"""Refuses requests that come from other web pages.

Every page that is open in a browser on this machine can reach the server. Such a page can send requests to 127.0.0.1,
and, if its own name is made to resolve to that address (DNS rebinding), read the answers as well. A browser states
both: the name in ``Host``, the page in ``Origin``. Programs send no ``Origin`` and are not affected.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["OriginGuard", "known_names", "own_names"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_Refuse = Callable[[str, str, str], _Application]

_MAX_SHOWN = 80


def own_names(host: str) -> frozenset[str]:
    """Return the names of a server that need no lookup which an attacker could control.

    Args:
        host: The address at which it listens.
    """
    return frozenset({"localhost", socket.gethostname().lower(), host.lower().strip("[]")})


def known_names(names: Iterable[str], host: str) -> bool:
    """Return whether a ``Host`` names this server, by an IP address, which DNS cannot redirect, or by an own name."""
    name = (urlsplit(f"//{host}").hostname or "").lower() if _is_sound(host) else ""
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OriginGuard:
    """Passes on requests from this server's own pages and from programs, and refuses those from other pages.

    Args:
        application: The guarded application.
        names: Allowed values of ``Host``, in addition to IP addresses; None for any, where a key or a password protects
            the server.
        refuse: Makes the application that answers 403, from found, expected and fix.
    """

    def __init__(self, application: Any, *, names: frozenset[str] | None, refuse: _Refuse) -> None:
        self._application, self._names, self._refuse = application, names, refuse

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        refused = self._find_fault(scope) if scope["type"] in ("http", "websocket") else None
        await (refused or self._application)(scope, receive, send)

    def _find_fault(self, scope: _Message) -> _Application | None:
        hosts, origins = _headers(scope, b"host"), _headers(scope, b"origin")
        if len(hosts) != 1 or not _is_sound(hosts[0]):
            return self._refuse(
                f"{len(hosts)} Host headers", "one, the address of this server", "send the request again"
            )
        if self._names is not None and not known_names(self._names, hosts[0]):
            fix = "open the server by its address, such as http://127.0.0.1, or start it with a password or a key"
            return self._refuse(f"the Host {hosts[0]!a:.{_MAX_SHOWN}}", "the name or the address of this server", fix)
        for origin in origins:
            if urlsplit(origin).netloc.lower() != hosts[0].lower() if _is_sound(origin) else True:
                fix = "send it from this server's own page, or from a program"
                return self._refuse(f"a request from the page {origin!a:.{_MAX_SHOWN}}", "none from another page", fix)
        return None


def _headers(scope: _Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _is_sound(text: str) -> bool:
    """Return whether ``urlsplit`` reads a text unchanged: it drops white space, and refuses some brackets."""
    if not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        urlsplit(text if "//" in text else f"//{text}")
    except ValueError:
        return False
    return True
