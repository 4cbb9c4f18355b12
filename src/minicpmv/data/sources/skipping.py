"""Skips bad records if the user allows it, and names each in the log and in ``skipped.jsonl``.

The file is what all processes of a run, and their workers, know of each other: every one adds to it under a lock, and
counts what the others have added. On several machines without a common disk each counts for itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minicpmv.errors import DataError, Problem
from minicpmv.files.atomic_files import open_in_place
from minicpmv.files.posix import fcntl

__all__ = ["SKIPPED", "TOO_LONG", "SkipLog", "Skipped"]

SKIPPED = "skipped.jsonl"
"""Its name in a run's directory."""

Skipped = Mapping[str, Sequence[Problem]]
"""Problems by the name of their record."""

TOO_LONG = "D201"
"""The one problem that ``--on_long_record`` is about: leaving such records out is a choice, and no fault of theirs."""
_MOST_SAID = 10

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipLog:
    """Takes down which records a run skips, and stops it when they are too many."""

    path: Path
    num_records: int
    """Of the run, those skipped included."""
    max_share: float
    """Largest share of them that may be bad, 0 to 1. Records that are only too long do not count."""

    def check(self, skipped: Skipped) -> None:
        """Make sure that the records skipped before a run are few enough, without writing anything.

        Raises:
            DataError: They are not. It names them, too.
        """
        self._check({name for name, problems in skipped.items() if _is_bad(problems[0].code)}, skipped)

    def begin(self, skipped: Skipped, *, afresh: bool) -> None:
        """Write down what a run skips from its beginning.

        Args:
            skipped: Records left out.
            afresh: Whether to forget an earlier run's; one that is resumed goes on with its own.
        """
        if afresh:
            self.path.unlink(missing_ok=True)
        if skipped:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.add(skipped)

    def add(self, skipped: Skipped) -> None:
        """Write down records, unless they stand there already.

        Raises:
            DataError: With them, too many are bad.
            UsageError: A link, or no file, has the name.
        """
        number = open_in_place(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, is_own=False)
        with open(number, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            file.seek(0)
            known = [json.loads(line) for line in file]
            named = {entry["record"] for entry in known}
            entries = [
                {"record": name, "code": problem.code, "where": problem.where}
                | {"found": problem.found, "expected": problem.expected, "fix": problem.fix}
                for name, problems in skipped.items()
                for problem in problems
                if name not in named
            ]
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        for entry in entries[:_MOST_SAID]:
            _logger.warning("skipped: %s: [%s] found %s", entry["where"], entry["code"], entry["found"])
        if len(entries) > _MOST_SAID:
            _logger.warning("skipped: %d more, see %s", len(entries) - _MOST_SAID, self.path)
        self._check({entry["record"] for entry in (*known, *entries) if _is_bad(entry["code"])}, skipped)

    def _check(self, bad: set[str], skipped: Skipped) -> None:
        if len(bad) > self.max_share * self.num_records:
            found = f"{len(bad):,} bad records of {self.num_records:,}"
            expected = f"at most {self.max_share:.2%} of them (--max_bad_share)"
            fix = "mend the data (`minicpmv check` lists all problems), or allow a larger share"
            problem = Problem("D205", self.path.name, found, expected, fix)
            raise DataError([problem, *(each for problems in skipped.values() for each in problems)])


def _is_bad(code: str) -> bool:
    return code != TOO_LONG
