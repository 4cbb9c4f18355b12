"""Reads the files of a run's directory, whether the run has finished or not.

A run that was killed or is still running lacks some of them: those that exist are read. Nothing is judged here but
whether the run goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from minicpmv.data.sources.skipping import SKIPPED
from minicpmv.errors import UsageError
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.report.facts import check_facts, check_state, check_verification, is_number, is_step
from minicpmv.report.holder import Life, find_life
from minicpmv.terminal.redaction import clean_settings
from minicpmv.wording import counted

__all__ = ["AFTER", "BEFORE", "FILES", "LOG", "RUN", "SAMPLES", "SETTINGS", "Run", "is_number", "read_run"]

RUN = "run.json"
SETTINGS = "run.yaml"
"""Its settings, as ``minicpmv train`` reads them to repeat it."""
LOG = "log.jsonl"
"""The log, a line for each entry, written while the run goes on."""
SAMPLES = "samples.jsonl"
BEFORE, AFTER = "before.jsonl", "after.jsonl"
"""Answers to the same records before and after training, if ``minicpmv eval --output`` wrote them here."""

_VERIFICATION = "verification.json"
FILES = (RUN, LOG, SAMPLES, BEFORE, AFTER, SKIPPED, _VERIFICATION)
"""Files of a run's directory that are read; of its checkpoints, only the newest trainer state is."""
_STATE = "trainer_state.json"

_SINCE: Mapping[Life, str] = {"killed": "killed", "left": "ended"}

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Holds the recorded facts of a run."""

    directory: Path
    facts: Entry
    """Content of ``run.json``; empty if there is none."""
    log: Sequence[Entry]
    """The entries of the log that have a step, in order."""
    samples: Sequence[Entry]
    skipped: Sequence[Entry]
    verification: Entry
    """Content of ``verification.json``; empty if there is none."""
    max_steps: int | None
    """Steps of the whole run; None if unknown."""
    life: Life
    """Whether its directory was held just before the files were read."""
    checkpoint: Path | None
    """The newest checkpoint; None if there is none."""
    faults: tuple[str, ...]
    """Files that could not be read, in words."""

    @property
    def status(self) -> str:
        """The last that the run wrote of itself, unless that is ``running`` and it does not run any more: ``killed``
        if its process was, ``ended`` if it ended otherwise, such as by an error; ``unknown`` if it wrote nothing.
        """
        written = str(self.facts.get("status") or "unknown")
        return _SINCE.get(self.life, written) if written == "running" else written

    @property
    def name(self) -> str:
        """Name of the run's directory, without those above it."""
        return self.directory.name

    @property
    def last_step(self) -> int:
        """Return the last step in the log."""
        return max((entry["step"] for entry in self.log), default=0)

    def last(self, key: str) -> float | None:
        """Return the newest value of a logged number; None if it was never logged."""
        return next((entry[key] for entry in reversed(self.log) if is_number(entry.get(key))), None)


def read_run(directory: str | Path) -> Run:
    """Read a run's directory.

    Raises:
        UsageError: It is not the directory of a run.
    """
    root = Path(directory)
    life = find_life(root)  # first: a run that ends meanwhile writes how before it lets the directory go
    faults: list[str] = []
    facts = check_facts(clean_settings(_read_json(root / RUN, faults)), faults)  # the file may come from anyone
    checkpoint = next(reversed(list_checkpoints(root)), None)
    state = check_state(_read_json(checkpoint / _STATE, faults), faults) if checkpoint is not None else {}
    logs = [list(_read_lines(root / LOG, faults)), facts.get("log"), state.get("log_history")]
    if not facts and not state and not logs[0]:
        reason = faults[0] if faults else f"neither {RUN} nor a checkpoint"
        raise UsageError(
            f"{root}: found {reason}, expected the --output_dir of a run\n  fix: name the directory of a run"
        )
    return Run(
        directory=root.resolve(),
        facts=facts,
        log=max(map(_with_steps, logs), key=lambda log: (log[-1]["step"], len(log)) if log else (-1, 0)),
        samples=_with_steps(list(_read_lines(root / SAMPLES, faults))),
        skipped=list(_read_lines(root / SKIPPED, faults)),
        verification=check_verification(_read_json(root / _VERIFICATION, faults), faults),
        max_steps=_find_max_steps(facts, state),
        life=life,
        checkpoint=checkpoint,
        faults=tuple(faults),
    )


def _read_json(path: Path, faults: list[str]) -> Entry:
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{path.name} that cannot be read ({error})")
        return {}
    if not isinstance(content, dict):
        faults.append(f"{path.name} that is not a JSON object")
        return {}
    return cast("Entry", content)


def _read_lines(path: Path, faults: list[str]) -> Iterator[Entry]:
    """Yield the JSON objects of a file. A run that was killed may have left half a line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        faults.append(f"{path.name} that cannot be read ({error})")
        return
    num_broken = 0
    for line in filter(str.strip, lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            num_broken += 1
            continue
        if isinstance(entry, dict):
            yield cast("Entry", entry)
        else:
            num_broken += 1
    if num_broken:
        faults.append(f"{counted(num_broken, 'line')} of {path.name} that are not JSON objects")


def _with_steps(entries: object) -> list[Entry]:
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and is_step(entry.get("step"))]


def _find_max_steps(facts: Entry, state: Entry) -> int | None:
    """Find the planned number of steps, from the newest checkpoint or from flags and plan."""
    settings, plan = facts.get("training_arguments") or {}, facts.get("plan") or {}
    planned = settings.get("max_steps") or -1
    epochs, steps_per_epoch = settings.get("num_train_epochs"), plan.get("steps_per_epoch")
    if planned <= 0 and epochs and steps_per_epoch:
        planned = math.ceil(epochs * steps_per_epoch)
    return planned if planned > 0 else state.get("max_steps")
