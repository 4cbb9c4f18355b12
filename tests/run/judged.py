"""The training command, writing down what each process looks at: ``rank-N`` in the folder that JUDGED names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.data.records.record import RawRecord
from minicpmv.data.samples import dataset
from minicpmv.errors import Problem
from minicpmv.training.run import main

_check, _fit = RecordChecker.check, dataset.fit_record
_notes = Path(os.environ["JUDGED"]) / f"rank-{os.environ['RANK']}"


def _note(word: str) -> None:
    with _notes.open("a", encoding="utf-8") as notes:
        notes.write(f"{word} ")


def _noted_check(self: RecordChecker, record: RawRecord, root: str | None = None) -> Iterator[Problem]:
    _note("judged")
    return _check(self, record, root)


def _noted_fit(*arguments: Any) -> Any:
    _note("counted")
    return _fit(*arguments)


if __name__ == "__main__":
    RecordChecker.check = _noted_check
    dataset.fit_record = _noted_fit
    sys.exit(main(sys.argv[1:]))
