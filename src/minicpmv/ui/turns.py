"""Several answers written at once by models that share weights: each writes a token, then the next one does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

__all__ = ["Turns"]


class Turns:
    """Who may write. Every one takes part in a thread of its own, and all must.

    Args:
        speaking: For each, what must be entered while it writes.
    """

    def __init__(self, speaking: Sequence[Callable[[], AbstractContextManager[None]]]) -> None:
        self._speaking = speaking
        self._order = deque(range(len(speaking)))
        """Who takes part, the one whose turn it is first."""
        self._changed = threading.Condition()

    @contextmanager
    def taking_part(self, number: int) -> Iterator[Callable[[], None]]:
        """Wait for the first turn. What is yielded hands the turn on, and returns when it has come round again."""
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
