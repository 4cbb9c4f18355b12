"""Closes connections whose client is too slow, and chooses which to close when there are too many.

A connection waits either for its client (to send headers or a body, to read an answer) or for this server. Only the
first kind is closed here. Checking once a second is enough, so connections need no timers of their own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ConnectionLimits", "Crowd", "make_protocol"]

_log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLimits:
    """Holds the time limits for clients."""

    header_seconds: float = 10.0
    """Seconds from the connection, or the previous answer, to the end of a request's headers."""
    body_seconds: float = 300.0
    """Seconds for a whole body."""
    stall_seconds: float = 10.0
    """Seconds in which ``stall_bytes`` of a body must arrive; an answer may stay unread three times as long."""
    stall_bytes: int = 10 * 1024
    request_seconds: float | None = None
    """Seconds from a request's headers to its answer's last byte; None for answers without a limit."""
    files_per_connection: int = 1
    """Open files of each connection: itself, and perhaps one for an upload."""


class Phase(Enum):
    """Names what a connection waits for: this server in ``ANSWER``, its client otherwise."""

    LEAVING = "its last answer was not taken"
    HEADERS = "no whole headers came"
    UNREAD = "its answer was not taken"
    BODY = "its body did not come"
    ANSWER = "its answer took too long"


# The phases that cost a client least are closed first.
_ORDER = [Phase.LEAVING, Phase.HEADERS, Phase.UNREAD, Phase.BODY]


class Crowd:
    """Tracks all connections of one server.

    Args:
        limits: Time limits of each connection.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._members: set[_Connection] = set()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, connection: _Connection) -> None:
        """Add a connection."""
        self._members.add(connection)

    def discard(self, connection: _Connection) -> None:
        """Remove a closed connection."""
        self._members.discard(connection)

    def sweep(self, now: float) -> None:
        """Close the connections that have waited too long for their client.

        Args:
            now: The event loop's time, in seconds.
        """
        for connection in list(self._members):
            phase = connection.look(now)
            if self._is_overdue(connection, phase, now):
                _log.warning("ended the connection of %s: %s in time", connection.address, phase.value)
                connection.abort()

    def make_room(self) -> bool:
        """Close the connections that have waited longest for their client, from the address with the most connections.

        A sixteenth of all is closed at once, so that a flood of connections does not cause a full scan for each of
        them.

        Returns:
            Whether there will be room soon; if not, every connection waits for this server.
        """
        now = asyncio.get_running_loop().time()
        numbers = Counter(connection.address for connection in self._members)
        phases = {connection: connection.look(now) for connection in self._members}
        candidates = [connection for connection, phase in phases.items() if phase is not Phase.ANSWER]
        if not candidates:
            return False
        most = max((connection.address for connection in candidates), key=numbers.__getitem__)
        own = [connection for connection in candidates if connection.address == most and connection.is_heard]
        own.sort(key=lambda connection: (_ORDER.index(phases[connection]), connection.since))
        leaving = own[: max(1, len(self._members) // 16)]
        for connection in leaving:
            connection.abort()
        if leaving:
            _log.warning("too many connections: ended %d that had waited longest of %s", len(leaving), most)
        return True

    def _is_overdue(self, connection: _Connection, phase: Phase, now: float) -> bool:
        limits, waited = self._limits, now - connection.since
        total = limits.request_seconds
        if total is not None and phase is not Phase.HEADERS and now - connection.request_since > total:
            return True
        if phase is Phase.BODY:
            return waited > limits.body_seconds or connection.is_stalled(limits.stall_bytes, limits.stall_seconds, now)
        if phase is Phase.HEADERS:
            return waited > limits.header_seconds
        return phase is not Phase.ANSWER and waited > 3 * limits.stall_seconds


class _Connection(H11Protocol):
    """Watches one connection through the state of uvicorn and h11. Subclasses name the crowd it belongs to.

    ``conn``, ``cycle``, ``flow`` and ``transport`` are uvicorn's, public by name and not documented (0.35 to 0.54).
    They may go when uvicorn has limits for headers and bodies itself.
    """

    crowd: Crowd

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.since = self.request_since = self._window_since = self.loop.time()
        self._received = self._received_before = 0
        self._seen: tuple[Phase, object] = (Phase.HEADERS, None)
        self.address = _network(self.client[0] if self.client else "")
        self.is_heard = False  # data that the client has sent by now is read within the loop's next two iterations
        self._hear_after(3)
        self.crowd.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def look(self, now: float) -> Phase:
        """Return what the connection waits for, and note the start of that phase in ``since``."""
        phase, cycle = self._phase(), self.cycle
        if self._seen[1] is not cycle:
            self.request_since = now
        if self._seen[0] is not phase or self._seen[1] is not cycle:
            self.since = self._window_since = now
            self._received_before = self._received
            self._seen = (phase, cycle)
        return phase

    def is_stalled(self, least: int, seconds: float, now: float) -> bool:
        """Return whether too little of a body arrived in that time, not counting pauses of this server's reading."""
        if self.flow.read_paused:
            self._window_since, self._received_before = now, self._received
        if now - self._window_since <= seconds:
            return False
        came = self._received - self._received_before
        self._window_since, self._received_before = now, self._received
        return came < least

    def abort(self) -> None:
        """Close the connection at once; the application that answers it sees a client that has left."""
        self.transport.abort()

    def _hear_after(self, turns: int) -> None:
        if turns:
            self.loop.call_soon(self._hear_after, turns - 1)
        else:
            self.is_heard = True

    def _phase(self) -> Phase:
        if self.transport.is_closing():
            return Phase.LEAVING
        if self.flow.write_paused:
            return Phase.UNREAD
        if self.conn.their_state is h11.SEND_BODY:
            return Phase.BODY
        cycle = cast("Any", self.cycle)  # None before the first request
        return Phase.HEADERS if cycle is None or cycle.response_complete else Phase.ANSWER


def make_protocol(crowd: Crowd) -> type[H11Protocol]:
    """Return the protocol class for connections of a crowd, for ``uvicorn.Config(http=...)``."""
    return type("Connection", (_Connection,), {"crowd": crowd})


def _network(address: str) -> str:
    """Return what identifies a client: an IPv4 address, or an IPv6 network."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return address if ip.version == 4 else str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
