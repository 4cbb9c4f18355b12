"""Prepares the next item in a thread while the current one is processed, so that the device never waits for images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from minicpmv.errors import MiniCPMVError

__all__ = ["ahead"]

_Item = TypeVar("_Item")
_Ready = TypeVar("_Ready")


def ahead(items: Iterable[_Item], prepare: Callable[[_Item], _Ready]) -> Generator[_Ready]:
    """Yield ``prepare(item)`` for each item in order, and prepare the next one while the caller has this one.

    The caller's own thread requests items, one ahead. An item's error is raised in its turn, after all earlier items.
    When the generator ends or is closed, no thread is left.

    Args:
        items: Iterated over once.
        prepare: Called in a thread, for one item at a time and in order.
    """
    source = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        coming = _start(source, prepare, thread)
        while coming is not None:
            ready = coming.result()
            coming = _start(source, prepare, thread)
            yield ready


def _start(
    source: Iterator[_Item], prepare: Callable[[_Item], _Ready], thread: ThreadPoolExecutor
) -> Future[_Ready] | None:
    """Start preparing the next item; return None if there is none."""
    try:
        item = next(source)
    except StopIteration:
        return None
    except MiniCPMVError as error:
        failed: Future[_Ready] = Future()
        failed.set_exception(error)
        return failed
    return thread.submit(prepare, item)
