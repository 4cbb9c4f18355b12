"""Wraps a listening socket so that it accepts no more connections than there are file descriptors.

asyncio accepts connections until the process has no descriptor left, and then prints a traceback at every attempt. It
calls ``accept`` of the given socket, so connections are counted there, where none is missed.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
import weakref
from contextlib import suppress
from typing import Any

from minicpmv.errors import UsageError
from minicpmv.files.posix import resource
from minicpmv.serving.http.connections import Crowd

__all__ = ["Door", "most_connections"]

_log = logging.getLogger("uvicorn.error")

_WANTED = 1024
_KEPT_FILES = 64
"""Descriptors reserved for pictures, fetches, threads and the log."""
_FEWEST = 16
_MAX_NEWCOMERS = 64
"""Accepted connections that the event loop has not taken over yet, which it does in its next iteration."""
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 28\r\n"
    b"retry-after: 1\r\nconnection: close\r\n\r\ntoo many connections at once"
)
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def most_connections(files_per_connection: int = 1) -> int:
    """Return how many connections there is room for, after raising the limit of open files where the system allows it.

    Raises:
        UsageError: There is room for too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = _num_open_files() + _KEPT_FILES
    needed = others + _WANTED * files_per_connection
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):  # some systems have a lower limit than they report
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, raised), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = _WANTED if soft == resource.RLIM_INFINITY else min(_WANTED, (soft - others) // files_per_connection)
    if room < _FEWEST:
        raise UsageError(
            f"open files: found a limit of {soft} (ulimit -n), expected at least "
            f"{others + _FEWEST * files_per_connection}\n  fix: raise it with ulimit -n 4096"
        )
    if room < _WANTED:
        _log.warning("at most %d connections at once: the limit of open files is %d (ulimit -n)", room, soft)
    else:
        _log.info("at most %d connections at once, %d files open (ulimit -n)", room, soft)
    return room


class Door(socket.socket):
    """Takes over a listening socket, and accepts connections while there is room.

    When full, it closes those that have waited longest for their client; if none waits for a client, the
    new one gets 503.

    Args:
        listening: Socket, which must not be used afterwards.
        crowd: The open connections.
        most: Limit on connections.
    """

    def __init__(self, listening: socket.socket, crowd: Crowd, most: int) -> None:
        family, kind, protocol = listening.family, listening.type, listening.proto
        super().__init__(family, kind, protocol, fileno=listening.detach())
        self._crowd, self._most = crowd, most
        self._inside: weakref.WeakSet[_Accepted] = weakref.WeakSet()
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            BlockingIOError: No connection waits, or room is being made until the event loop's next iteration.
        """
        if len(self._inside) - len(self._crowd) >= _MAX_NEWCOMERS:
            raise BlockingIOError
        is_full = len(self._inside) >= self._most
        if is_full and self._crowd.make_room():
            raise BlockingIOError
        try:
            plain, address = super().accept()
        except OSError as error:
            if error.errno not in _NO_RESOURCES:
                raise
            self._turn_away(error)
            raise BlockingIOError from error
        accepted = _Accepted(plain, self._inside)
        if is_full:
            accepted.refuse()
            raise BlockingIOError
        return accepted, address

    def close(self) -> None:
        """Stop accepting connections."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        super().close()

    def _turn_away(self, error: OSError) -> None:
        """Accept the waiting connection with the spare descriptor and close it: it would wait for ever."""
        _log.error("a connection was turned away: %s", error.strerror)
        self._crowd.make_room()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        try:
            super().accept()[0].close()
        except BlockingIOError:
            pass
        except OSError:  # not this process's limit: all that helps is to try again later
            time.sleep(0.05)
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)


class _Accepted(socket.socket):
    """Counts a connection until it is closed or garbage-collected."""

    def __init__(self, plain: socket.socket, inside: weakref.WeakSet[_Accepted]) -> None:
        family, kind, protocol = plain.family, plain.type, plain.proto
        super().__init__(family, kind, protocol, fileno=plain.detach())
        self._all = inside
        inside.add(self)
        self.setblocking(False)
        # asyncio sets TCP_NODELAY only if the socket was made with its protocol number, and without it the second piece
        # of an answer waits for the client to acknowledge the first.
        with suppress(OSError):  # already closed
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._all.discard(self)
        super().close()

    def refuse(self) -> None:
        """Send that there is no room, if it can be sent at once, and close."""
        with suppress(OSError):
            self.send(_BUSY)
        self.close()


def _num_open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))
    return _KEPT_FILES
