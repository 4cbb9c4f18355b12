"""Writes ``log.jsonl`` during the run, so that a killed run leaves what it has logged so far."""

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
    """Writes each entry of the log as it is made, on rank 0 only.

    Args:
        directory: The run's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOG

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin with the log of the checkpoint that the run resumes from; later entries are of steps to repeat."""
        if state.is_world_process_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, _lines(state.log_history))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the log again, since callbacks that run later may have removed entries."""
        self.on_train_begin(args, state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the newest entry of the log, on the first process only."""
        if state.is_world_process_zero:
            number = open_in_place(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, is_own=False)
            with open(number, "a", encoding="utf-8") as file:
                file.write(_lines(state.log_history[-1:]))


def _lines(entries: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{json.dumps(entry)}\n" for entry in entries)
