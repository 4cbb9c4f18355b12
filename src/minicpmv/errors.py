"""The errors a user can meet, each saying where, what was found, what was expected and how to mend it.

Only faults that a user, a file or a checkpoint can cause live here; what our own code promises is asserted
where it is promised. The command line prints these without a traceback and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from minicpmv.wording import list_few

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ImageError",
    "MachineError",
    "MiniCPMVError",
    "NotFiniteError",
    "Problem",
    "UsageError",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault, worded for whoever owns the file."""

    code: str
    """Stable and searchable, such as ``D104``; one code names one kind of fault for ever."""
    where: str
    """File, record and field, as precise as is known: ``train.json record 7 (id 'a7') conversations[1].role``."""
    found: str
    expected: str
    fix: str
    severity: Literal["problem", "notice"] = "problem"
    """A problem stops a run. A notice does not: it says what is done with something that is seldom meant."""

    def __str__(self) -> str:
        return f"{self.where}: [{self.code}] found {self.found}, expected {self.expected}\n  fix: {self.fix}"


class MiniCPMVError(Exception):
    """Base of every fault that its reader can mend. The message is complete: it needs no traceback beside it.

    Processes send faults to each other, so all can be pickled, whatever a subclass is made of.
    """

    is_of_one_process: bool = False
    """Whether, in a run of several, the others may know nothing of it. Each process then says its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.args, self.__dict__)


def _remake(kind: type[MiniCPMVError], args: tuple[Any, ...], fields: dict[str, Any]) -> MiniCPMVError:
    error = kind.__new__(kind, *args)  # Exception's own, which keeps the message; a subclass's __init__ takes others
    error.__dict__.update(fields)
    return error


class UsageError(MiniCPMVError):
    """A command or function was called with arguments that cannot work together."""


class ConfigError(MiniCPMVError):
    """A setting, or a configuration file, holds a value that cannot work."""


class MachineError(MiniCPMVError):
    """The machine, or what is installed to use it, cannot do what is asked of it."""


class CheckpointError(MiniCPMVError):
    """A model directory, adapter or training checkpoint is not what it should be."""


class ImageError(MiniCPMVError):
    """A picture cannot be used.

    Args:
        where: The file, or what stands for it.
        found: What is wrong with it.
        expected: What would have worked.
        fix: What its owner can do.
    """

    def __init__(self, *, where: str, found: str, expected: str, fix: str) -> None:
        self.where, self.found, self.expected, self.fix = where, found, expected, fix
        super().__init__(f"{where}: found {found}, expected {expected}\n  fix: {fix}")


class NotFiniteError(MiniCPMVError):
    """Numbers that a model learns with, or answers by, are NaN or infinite: a loss, a gradient, weights or logits.

    Args:
        message: Complete.
        rows: Of a batch of questions, those at fault; none where it is not about questions.
    """

    def __init__(self, message: str, *, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class DataError(MiniCPMVError):
    """Records that cannot be trained on as written.

    Args:
        problems: Every fault found, in file order; at least one. Or the text of an earlier ``DataError``: from that,
            unpickling and torch's ``DataLoader``, when its worker met the error, make it again.
        max_shown: How many of them the message spells out; the rest are counted.
    """

    def __init__(self, problems: Sequence[Problem] | str, *, max_shown: int = 10) -> None:
        self.problems: tuple[Problem, ...] = ()
        if isinstance(problems, str):
            # The DataLoader hands over a whole traceback; at its end the message stands behind the class's name.
            super().__init__(problems.rpartition(f"{type(self).__qualname__}: ")[2].rstrip())
            return
        self.problems = tuple(problems)
        super().__init__(list_few([str(problem) for problem in self.problems], most=max_shown))
