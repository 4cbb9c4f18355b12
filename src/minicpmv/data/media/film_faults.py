"""Says why a film cannot be used: which kind of fault, at which second, and what its owner can do."""

from __future__ import annotations

from typing import Literal

from minicpmv.errors import ImageError, MiniCPMVError

__all__ = ["FilmError", "FilmFault"]

FilmFault = Literal[
    "missing",
    "not local",
    "not installed",
    "empty",
    "not a film",
    "no pictures",
    "several tracks",
    "index missing",
    "no frames",
    "ends early",
    "damaged",
    "size changes",
    "too large",
    "too long",
    "a picture",
]
"""``no pictures``: only sound. ``index missing``: an MP4 file that was cut off. ``a picture``: one of a folder or list
is faulty, and ``error.__cause__`` is its ``ImageError``."""


class FilmError(MiniCPMVError):
    """A film cannot be used.

    Args:
        kind: Which kind of fault it is.
        where: The file or folder.
        found: What is wrong with it.
        expected: What would have worked.
        fix: What its owner can do.
        second: Where in the film, in seconds from its first frame; None if it is no matter of time.
    """

    def __init__(
        self, kind: FilmFault, *, where: str, found: str, expected: str, fix: str, second: float | None = None
    ) -> None:
        self.kind: FilmFault = kind
        self.where, self.found, self.expected, self.fix, self.second = where, found, expected, fix, second
        super().__init__(f"{where}: found {found}, expected {expected}\n  fix: {fix}")

    @classmethod
    def of_picture(cls, error: ImageError, *, second: float | None = None) -> FilmError:
        """Return the fault of a film of pictures, one of which is faulty."""
        return cls(
            "a picture", where=error.where, found=error.found, expected=error.expected, fix=error.fix, second=second
        )
