"""Keeps a log from growing as fast as clients can send requests.

A few lines of each kind are written; the others are counted, and one line reports their number.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LogLimit", "limit_log"]

_LINES = 5
"""Most lines of one kind in one window; a record's own ``max_lines`` overrides it."""
_FIRST_WINDOW_SECONDS = 60.0
_LONGEST_WINDOW_SECONDS = 3600.0
_MAX_KINDS = 100
_LOGGERS = ("uvicorn.error", "asyncio")


@dataclass(slots=True)
class _Kind:
    begun: float
    record: logging.LogRecord
    window_seconds: float = _FIRST_WINDOW_SECONDS
    written: int = 0
    left_out: int = 0


class LogLimit(logging.Filter):
    """Lets through a few records of each kind, where a kind is a message before its values are filled in.

    A window lasts a minute; after one in which lines were dropped, the next is twice as long, up to an hour. So a
    kind costs about 150 lines a day, however often it happens.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._kinds, self._lock = clock, dict[object, _Kind](), threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        if hasattr(record, "left_out"):  # our own summary
            return True
        most: int | None = getattr(record, "max_lines", _LINES)
        if most is None:
            return True
        self.summarize()
        with self._lock:
            template = str(record.msg).partition("\n")[0][:60]
            key: object = (record.name, record.levelno, template)
            if key not in self._kinds and len(self._kinds) >= _MAX_KINDS:
                key = None  # all further kinds are counted as one
            kind = self._kinds.setdefault(key, _Kind(self._clock(), record))
            if kind.written < most:
                kind.written += 1
                return True
            kind.left_out += 1
            kind.record = record
            return False

    def summarize(self) -> None:
        """Log what was dropped in the windows that have ended."""
        now = self._clock()
        ended: list[tuple[_Kind, int]] = []
        with self._lock:
            for key, kind in list(self._kinds.items()):
                if now - kind.begun < kind.window_seconds:
                    continue
                if kind.left_out == 0:
                    del self._kinds[key]
                    continue
                ended.append((kind, kind.left_out))
                kind.begun, kind.written, kind.left_out = now, 0, 0
                kind.window_seconds = min(2 * kind.window_seconds, _LONGEST_WINDOW_SECONDS)
        for kind, left_out in ended:
            _say(kind.record, left_out)


def limit_log() -> LogLimit:
    """Limit a web server's loggers, and return the limit, whose ``summarize`` must be called regularly."""
    limit = LogLimit()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for earlier in [kept for kept in logger.filters if isinstance(kept, LogLimit)]:
            logger.removeFilter(earlier)
        logger.addFilter(limit)
    return limit


def _say(last: logging.LogRecord, left_out: int) -> None:
    line = last.getMessage().partition("\n")[0]
    logging.getLogger(last.name).log(
        last.levelno, "%s more lines like: %.200s", f"{left_out:,}", line, extra={"left_out": left_out}
    )
