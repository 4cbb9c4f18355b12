"""Lets models that share weights write answers at once: each writes a token, then the next one does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

__all__ = ["Turns"]


class Turns:
    """Passes the turn among participants, each in its own thread; all of them must take part.

    Args:
        speaking: For each participant, the context to enter while it writes.
    """

    def __init__(self, speaking: Sequence[Callable[[], AbstractContextManager[None]]]) -> None:
        self._speaking = speaking
        self._order = deque(range(len(speaking)))
        """Participants, with the one whose turn it is first."""
        self._changed = threading.Condition()

    @contextmanager
    def taking_part(self, number: int) -> Iterator[Callable[[], None]]:
        """Wait for the first turn. The yielded function passes the turn on, and returns when it comes round again."""
        held = ExitStack()

        def begin() -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._order[0] == number)
            held.enter_context(self._speaking[number]())

        def hand_on() -> None:
            if len(self._order) > 1:
                held.close()
                with self._changed:
                    self._order.rotate(-1)
                    self._changed.notify_all()
                begin()

        try:
            begin()
            yield hand_on
        finally:
            held.close()
            with self._changed:
                self._order.remove(number)
                self._changed.notify_all()
