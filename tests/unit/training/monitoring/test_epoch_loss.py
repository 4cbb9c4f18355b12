"""The mean loss of an epoch, where a run ends within it and a longer one goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from minicpmv.training.monitoring.epoch_loss import EPOCH_LOSS, EpochLoss


def step(sums: EpochLoss, loss: float, tokens: int) -> None:
    sums.add(torch.tensor(loss), tokens)
    sums.end_step()


def test_longer_run_goes_on_with_the_epoch_and_withdraws_its_part() -> None:
    sums, args, control = EpochLoss(), None, TrainerControl()
    step(sums, 4.0, 30)
    assert sums.mean() == pytest.approx(4.0)
    resumed = EpochLoss.from_state(sums.state())
    history: list[Any] = [{"step": 1, "loss": 4.0}, {"step": 1, EPOCH_LOSS: 4.0}]
    state = TrainerState(global_step=1, max_steps=1, log_history=list(history))
    resumed.on_train_begin(args, state, control)  # type: ignore[arg-type]  looks at nothing of it
    assert state.log_history == history, "the run is over as it was"
    state.max_steps = 2
    resumed.on_train_begin(args, state, control)  # type: ignore[arg-type]
    assert state.log_history == history[:1]
    step(resumed, 1.0, 10)
    assert resumed.mean() == pytest.approx((4 * 30 + 1 * 10) / 40)
    resumed.end_epoch()
    assert resumed.mean() is None
