from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from minicpmv.errors import UsageError
from minicpmv.training.monitoring.log_file import LogFile


def entries(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    """Steps 3 and 4 were logged, then the run was killed; its checkpoint is of step 2."""
    args: Any = None
    state, control = TrainerState(), TrainerControl()
    log = LogFile(tmp_path)
    log.on_train_begin(args, state, control)
    for step in range(1, 5):
        state.log_history.append({"loss": 1.0 / step, "step": step})
        log.on_log(args, state, control)
    assert entries(tmp_path) == state.log_history
    state.log_history = state.log_history[:2]
    LogFile(tmp_path).on_train_begin(args, state, control)
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 2]


def test_one_process_writes(tmp_path: Path) -> None:
    state, args = TrainerState(is_world_process_zero=False, log_history=[{"loss": 1.0, "step": 1}]), object()
    for event in (LogFile(tmp_path).on_train_begin, LogFile(tmp_path).on_log):
        event(args, state, TrainerControl())  # pyright: ignore[reportArgumentType] # they ask the state alone
    assert list(tmp_path.iterdir()) == []


def test_an_entry_follows_no_link(tmp_path: Path) -> None:
    (foreign := tmp_path / "foreign").write_text("kept", encoding="utf-8")
    (tmp_path / "log.jsonl").symlink_to(foreign)
    args: Any = None
    state = TrainerState(log_history=[{"loss": 1.0, "step": 1}])
    with pytest.raises(UsageError, match=r"log\.jsonl': found a link"):
        LogFile(tmp_path).on_log(args, state, TrainerControl())
    assert foreign.read_text(encoding="utf-8") == "kept"
