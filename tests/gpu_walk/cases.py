"""Lists the cases that are walked: by default one of each kind of network and one on pairs, all with ``-m slow``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tests.gpu_walk.report import METHODS, PRECISIONS, RELEASES, ROWS, Case

__all__ = ["DEFAULT", "OTHERS"]

DEFAULT = (
    Case(release="2.0", method="full", precision="zero2 bfloat16", records="weights"),
    Case(release="2.5", rows="padded", precision="autocast float16", recomputes=True),
    Case(release="2.6", method="adapters", records="pairs"),
    Case(release="4.5", method="full", recomputes=True),
    Case(release="4.6", recomputes=True),
    Case(release="4.7-A3B", method="adapters", precision="zero2 bfloat16"),
)
"""Of each kind of network one, and together every way of training at least once; and one whose answers are compared."""


def _all() -> Iterator[Case]:
    for release, method, precision, rows, recomputes in product(RELEASES, METHODS, PRECISIONS, ROWS, (False, True)):
        yield Case(release=release, method=method, precision=precision, rows=rows, recomputes=recomputes)
    for release, rows, records in product(RELEASES, ROWS, ("weights", "text")):
        yield Case(release=release, rows=rows, records=records)
    for release in RELEASES:
        yield Case(release=release, records="pairs")


OTHERS = tuple(case for case in _all() if case not in DEFAULT)
