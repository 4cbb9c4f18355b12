"""``log.jsonl``: the log as it grows, so that a run that is killed leaves what it has logged until then."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minicpmv.files.atomic_files import open_in_place, write_whole
from minicpmv.report.run_directory import LOG

__all__ = ["LogFile"]


class LogFile(TrainerCallback):
    """Writes each entry of the log when it is made; the first process alone does.

    Args:
        directory: The run's.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOG

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin with what the checkpoint knows that the run goes on from: later entries are of steps to be repeated."""
        if state.is_world_process_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, _lines(state.log_history))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write it as it is by now: entries may have been withdrawn since, by callbacks that come later."""
        self.on_train_begin(args, state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the newest entry of the log, on the first process only."""
        if state.is_world_process_zero:
            number = open_in_place(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, is_own=False)
            with open(number, "a", encoding="utf-8") as file:
                file.write(_lines(state.log_history[-1:]))


def _lines(entries: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{json.dumps(entry)}\n" for entry in entries)
